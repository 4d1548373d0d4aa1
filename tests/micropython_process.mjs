// Runs a script in MicroPython: node micropython_process.mjs BUILD CLIENTS
// Standard input: the script as a line of JSON, then a line of hex for each one that was asked for.
// Standard output: "=" and a line that the script printed, or ">" and hex that wants an answer.
import fs from "node:fs";

const [build, clients] = process.argv.slice(2);
const { loadMicroPython } = await import(`${build}/micropython.mjs`);
const chunk = Buffer.alloc(1 << 16);
let left = "";

function readLine() {
    while (!left.includes("\n")) {
        const size = fs.readSync(0, chunk);
        if (!size) process.exit(3);
        left += chunk.toString("latin1", 0, size);
    }
    const end = left.indexOf("\n");
    const line = left.slice(0, end);
    left = left.slice(end + 1);
    return line;
}

function exchange(hex) {
    fs.writeSync(1, `>${hex}\n`);
    return readLine();
}

const script = JSON.parse(readLine());
const micropython = await loadMicroPython({
    stdout: (line) => fs.writeSync(1, `=${line}\n`),
});
micropython.FS.mkdir("/clients");
for (const name of fs.readdirSync(clients).filter((name) => name.endsWith(".py"))) {
    micropython.FS.writeFile(`/clients/${name}`, fs.readFileSync(`${clients}/${name}`));
}
micropython.registerJsModule("test", { exchange });
try {
    micropython.runPython(script);
} catch (error) {
    fs.writeSync(2, error.message);
    process.exit(1);
}
