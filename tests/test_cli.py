"""The `edgellm` command: verbs, exit status, what goes to which stream."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import small_models

import edgellm
from edgellm import cli
from edgellm.chat import Chat
from edgellm.commands import host, options, run, serve
from edgellm.sampling import Sampling
from edgellm.tokenizer import CONTROL, NORMAL, USER_DEFINED, TokenizerData

EDGELLM = [sys.executable, "-m", "edgellm"]
RAW = ["-no-cnv", "--temp", "0", "-n", "8"]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    small_models.write_gguf(path, "llama", layers=1)
    return path


@pytest.fixture(scope="session")
def expected(model: Path) -> str:
    """What the verbs must print after "the lamp" under RAW, by way of the Python interface."""
    with edgellm.load(model) as loaded:
        pieces = [piece.text for piece in loaded.generate("the lamp", max_tokens=8)]
    return "the lamp" + "".join(pieces) + "\n"


def call(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EDGELLM, *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=120
    )


# What needs no model


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    shown = capsys.readouterr().out
    for verb, summary in cli.VERBS.items():
        assert f"    {verb}" in shown
        assert summary in shown


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_help_with_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main([verb, "--help"])
    assert f"examples:\n  edgellm {verb}" in capsys.readouterr().out


def test_every_module_of_commands_is_a_verb_or_shared() -> None:
    folder = Path(cli.__file__).parent / "commands"
    assert {path.stem for path in folder.glob("*.py")} == {
        *cli.VERBS,
        *("__init__", "columns", "host", "options"),
    }


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"edgellm {edgellm.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["run", "--temperatur", "1"],
        ["run", "-n", "-2"],
        ["run", "-n", "many"],
        ["run", "-c", "0"],
        ["run", "--logit-bias", "7"],
        ["serve"],
        ["serve", "--channel", "tcp://127.0.0.1:0", "-np", "0"],
        ["bench", "-p", "-1"],
        ["plugins", "--kind", "friend"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    assert "usage: edgellm" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["info", "nowhere.gguf"], 2, "nowhere.gguf: no such file or folder"),
        (["info", "a.gguf", "-m", "b.gguf"], 2, "two models: 'a.gguf' and 'b.gguf'"),
        (["info", __file__], 5, "magic is"),
        (["run", "nowhere.gguf", "-p", "x"], 2, "nowhere.gguf"),
        (["run", "-p", "x", "-f", __file__], 2, "--prompt and --file exclude each other"),
        (["run", "-f", "/nowhere"], 2, "/nowhere: No such file or directory"),
        (["serve", "--channel", "pigeon://loft"], 2, "no channel plugin serves that"),
        (["run", "-p", "x", "--device", "abacus"], 1, "'abacus'; there are: cpu"),
        (["bench", "--device", "abacus"], 1, "no backend runs on 'abacus'"),
        (["run", "-p", "x", "-c", "1000000000"], 2, "give 1 to 134217728"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_errors_are_one_line_and_a_status(
    arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("edgellm: ")
    assert said in err
    assert err.count("\n") == 1


def test_a_model_that_does_not_fit_is_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edgellm.memory.available", lambda: 32 << 20)
    assert cli.main(["run", "-p", "x", "-c", "99"]) == 3
    said = (
        r"edgellm: \S+ needs about .* with a context of 99 tokens, this machine has 32.0 MiB left; "
        "a smaller model takes less; --force tries it anyway"
    )
    assert re.fullmatch(said, capsys.readouterr().err.strip())
    assert cli.main(["run", "-p", "x", "-c", "99", "-n", "1", "--force"]) == 0


def test_debug_shows_where_an_error_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_DEBUG", "0")  # so that the flag's setting is taken back
    for arguments in (["--debug", "info", "nowhere"], ["info", "--debug", "nowhere"]):
        with pytest.raises(edgellm.EdgeError, match="nowhere"):
            cli.main(arguments)


def test_how_long_the_threads_of_numpy_wait_is_for_the_user_to_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", "26")
    assert cli.main(["plugins", "--json"]) == 0
    assert os.environ["OPENBLAS_THREAD_TIMEOUT"] == "26"
    monkeypatch.delenv("OPENBLAS_THREAD_TIMEOUT")
    assert cli.main(["plugins", "--json"]) == 0
    assert int(os.environ["OPENBLAS_THREAD_TIMEOUT"]) < 26  # OpenBLAS's own


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(options: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgellm.commands.plugins.main", interrupted)
    assert cli.main(["plugins"]) == 130


def test_sigterm_ends_an_answer_with_a_word(model: Path) -> None:
    endless = ["-no-cnv", "--temp", "0", "-n", "-1", "--context-shift"]
    command = [*EDGELLM, "run", "-m", str(model), "-p", "the", *endless]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(3) == b"the"
        process.terminate()
        assert process.wait(20) == 128 + signal.SIGTERM
        assert process.stderr.read() == b"edgellm: ended by SIGTERM\n"


def test_a_reader_that_went_away_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*EDGELLM, "plugins"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == 128 + signal.SIGPIPE
    assert done.stderr == ""


def test_plugins_lists_name_version_kind_and_hooks(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plugins"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["NAME", "VERSION", "KIND", "HOOKS"]
    assert ["cpu", edgellm.__version__, "backend", "edgellm_backend"] in lines


def test_plugins_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plugins", "--kind", "channel", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    expected = {"kind": "channel", "hooks": ["edgellm_channel"], "version": edgellm.__version__}
    assert {"name": "socket", **expected} in listed


# Options


ALL_FLAGS = """
    --temp 0.5 --top-k 3 --top-p 0.9 --min-p 0.1 --typical 0.7 --repeat-penalty 1.1
    --repeat-last-n 32 --presence-penalty 0.2 --frequency-penalty 0.3 --mirostat 2
    --dry-multiplier 0.8 --dry-base 2 --dry-allowed-length 4 --mirostat-ent 4
    --dry-penalty-last-n 99 --mirostat-lr 0.2 -s 42 -l 7+1.5 --logit-bias 9-inf
"""


def parsed(*arguments: str) -> argparse.Namespace:
    return cli.parser("run").parse_args(["run", *arguments])


def test_without_flags_sampling_is_the_default() -> None:
    assert options.sampling(parsed()) == Sampling()


def test_every_field_of_sampling_has_its_flag() -> None:
    given = parsed(
        *ALL_FLAGS.split(), "--samplers", "temperature;top_k", "--dry-sequence-breaker", "none"
    )
    assert options.sampling(given) == Sampling(
        temperature=0.5,
        top_k=3,
        top_p=0.9,
        min_p=0.1,
        typical_p=0.7,
        repeat_penalty=1.1,
        repeat_last_n=32,
        presence_penalty=0.2,
        frequency_penalty=0.3,
        dry_multiplier=0.8,
        dry_base=2.0,
        dry_allowed_length=4,
        dry_penalty_last_n=99,
        dry_sequence_breakers=(),
        mirostat=2,
        mirostat_tau=4.0,
        mirostat_eta=0.2,
        logit_bias={7: 1.5, 9: float("-inf")},
        seed=42,
        samplers=("temperature", "top_k"),
    )


def test_seed_minus_1_draws_one() -> None:
    assert options.sampling(parsed("-s", "-1")).seed is None


def test_a_template_is_a_name_or_jinja(tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_text("{{ messages }}")
    assert options.chat_template(parsed()) == {}
    assert options.chat_template(parsed("--chat-template", "chatml")) == {"format": "chatml"}
    for arguments in (["--chat-template", "{{ messages }}"], ["--chat-template-file", str(file)]):
        assert options.chat_template(parsed(*arguments)) == {"template": "{{ messages }}"}
    with pytest.raises(edgellm.EdgeError, match="exclude each other"):
        options.chat_template(parsed("--chat-template", "x", "--chat-template-file", str(file)))


@pytest.mark.parametrize(
    ("written", "meant"), [(r"a\nb", "a\nb"), (r"\\n", r"\n"), (r"\"\t\x", '"\t' + r"\x")]
)
def test_escapes_in_a_prompt(written: str, meant: str) -> None:
    assert run.prompt(parsed("-e", "-p", written)) == meant
    assert run.prompt(parsed("-p", written)) == written


# With a model


def test_info_tells_what_is_in_the_file(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", str(model), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["architecture"] == "llama"
    assert about["layers"] == 1
    assert about["width"] == small_models.DIM
    assert about["tokenizer"]["model"] in ("llama", "gpt2")
    assert sum(kind["bytes"] for kind in about["types"].values()) == about["bytes"]
    assert about["memory"]["bytes"] < about["memory"]["bytes_exact"]

    assert cli.main(["info", "-m", str(model)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "architecture  llama" in lines


def test_run_prints_the_answer_alone(model: Path, expected: str) -> None:
    done = call("run", model, *RAW, stdin="the lamp\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


def test_run_without_the_prompt_and_with_the_speed(model: Path, expected: str) -> None:
    done = call("run", model, *RAW, "-p", "the lamp", "--no-display-prompt", "--verbose")
    assert done.stdout == expected.removeprefix("the lamp")
    assert re.search(r"first token after .* s, 8 tokens, .* tokens/s \(length\)", done.stderr)


def test_run_answers_by_a_schema_given_or_in_a_file(model: Path, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('{"enum": ["lamp on", "lamp off"]}')
    given = ['{"enum": [17, true]}', str(tmp_path / "schema.json")]
    answers = [("17\n", "true\n"), ('"lamp on"\n', '"lamp off"\n')]
    for schema, expected in zip(given, answers, strict=True):
        done = call("run", model, "-no-cnv", "-j", schema, "-p", "the lamp")
        assert done.stdout in expected, done.stderr


@pytest.mark.parametrize(
    ("given", "status", "said"),
    [
        (["--top-p", "2"], 2, "top_p is 2.0"),
        (["--samplers", "top_k;foo"], 2, "'foo', which no plugin offers; known: dry"),
        (["--chat-template", "nosuch"], 2, "there is no chat format 'nosuch'; known: alpaca"),
        (["--chat-template", "{% if %}"], 1, "chat template, line 1"),
        (["--json-schema", '{"type": "x"}'], 2, "the JSON Schema can't be used"),
        (["--json-schema", "{"], 2, "--json-schema: not JSON"),
        (["--json-schema", "no-such-file"], 2, "no-such-file: No such file"),
        (["-j", __file__], 2, "--json-schema: not JSON"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_options_are_checked_before_the_model_is_loaded(
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    status: int,
    said: str,
) -> None:
    monkeypatch.setattr("edgellm.runtime.start", lambda *_, **__: pytest.fail("loaded"))
    assert cli.main(["run", str(model), "-p", "x", *given]) == status
    assert said in capsys.readouterr().err


def test_chat_answers_line_by_line_without_a_terminal(model: Path, expected: str) -> None:
    done = call("chat", model, *RAW, stdin="the lamp\n/new\nthe lamp\n")
    assert (done.returncode, done.stdout) == (0, 2 * expected)


def test_serve_answers_until_a_signal_comes(model: Path, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    arguments = ["serve", str(model), *RAW, "--channel", f"unix://{path}"]
    with subprocess.Popen([*EDGELLM, *arguments], stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            while "listening" not in server.stderr.readline():
                assert server.poll() is None
            status = json.loads(call("status", f"unix://{path}", "--json").stdout)
            assert status["model"] == "small llama"
            assert status["duty"] == 1
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(60)
                client.connect(str(path))
                client.sendall(b"the lamp\n")
                answer = b""
                while len(answer) < len(expected.encode()) and (data := client.recv(4096)):
                    answer += data
        finally:
            server.terminate()
        assert server.wait(30) == 0
        assert server.stderr.read() == ""
    assert answer.decode() == expected


def test_a_channel_that_fails_ends_the_others() -> None:
    ended = []

    class Fails:
        url = "fails:"

        async def serve(self, service: object) -> None:
            raise edgellm.EdgeError("no such port")

    class Waits:
        url = "waits:"

        async def serve(self, service: object) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(self.url)

    with pytest.raises(edgellm.EdgeError, match="no such port"):
        asyncio.run(serve.serve_all([Waits(), Fails(), Waits()], None))
    assert ended == ["waits:", "waits:"]


@pytest.mark.parametrize("chat", [Chat(format="gemma"), Chat("<start_of_turn>\n  {{ role }}: it")])
def test_a_users_text_must_not_hold_what_controls_the_model_or_marks_a_turn(chat: Chat) -> None:
    tokens = {
        **{"a": NORMAL, "<bos>": CONTROL, "</s>": NORMAL, "<start_of_turn>": USER_DEFINED},
        **{"\n": USER_DEFINED, "\n  ": USER_DEFINED, "it": USER_DEFINED, "<b>": USER_DEFINED},
    }
    data = TokenizerData("gpt2", tokens=tuple(tokens), types=tuple(tokens.values()))
    model = SimpleNamespace(
        file=SimpleNamespace(tokenizer=data), tokenizer=SimpleNamespace(eog={2})
    )
    assert host.control_texts(model, chat) == ["<bos>", "</s>", "<start_of_turn>"]


def test_bench_measures(model: Path) -> None:
    done = call("bench", model, "-p", "16", "-n", "8", "-r", "2", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = map(json.loads, done.stdout.splitlines())
    assert (row["prompt"], row["generate"], row["batch"], row["depth"]) == (16, 8, 1, 0)
    assert min(row["prefill_repeats"] + row["decode_repeats"]) > 0
    assert row["peak_rss_bytes"] > 10 << 20


@pytest.mark.parametrize(
    ("prompt", "context", "reference"),
    [
        ("", 256, "greedy_256.txt"),
        ("Lily and Tom went to the park", 128, "greedy_128_lily.txt"),
    ],
)
def test_stories_are_those_of_llama2_c(
    shared: Path, prompt: str, context: int, reference: str
) -> None:
    folder = shared / "stories260k"
    done = call(
        "run", folder / "stories260K.gguf", "--exact", "--temp", 0, "-c", context, "-p", prompt
    )
    assert done.stdout == (folder / reference).read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_the_output_is_one_line() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "edgellm", "plugins"], stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == ["edgellm: [Errno 28] No space left on device"]


def test_closed_standard_streams_are_no_crash() -> None:
    command = f"{sys.executable} -m edgellm plugins <&- >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
