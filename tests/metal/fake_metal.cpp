// A Metal device without a GPU: compiles sources through tests/metal_language.py, runs kernels thread
// by thread, and checks what Metal's validation layer checks.
//
// Nothing runs before somebody waits for it: results that are read too early are never there.
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdint>
#include <cstring>
#include <fstream>

#include "objects.h"
#include "thread_groups.h"

namespace {

enum { BUFFERS = 31, THREADS = 1024, THREADGROUP_BYTES = 32768, GUARD = 16 << 20 };
enum Status { NOT_ENQUEUED, ENQUEUED, COMMITTED, SCHEDULED, COMPLETED, FAILED };

// What a test may set.
std::map<std::string, long> settings;
int (*compile)(const char *source, char *answer, int size);  // 0: answer is a path; else an error

std::vector<std::string> ran;  // names of kernels, each once
unsigned long launches, allocated, in_place;

struct Size {
    unsigned long x, y, z;
};
struct Range {
    unsigned long location, length;
};

Class device_class = {"MTLDevice", {}, {}}, options_class = {"MTLCompileOptions", {}, {}},
      library_class = {"MTLLibrary", {}, {}}, function_class = {"MTLFunction", {}, {}},
      pipeline_class = {"MTLComputePipelineState", {}, {}}, buffer_class = {"MTLBuffer", {}, {}},
      queue_class = {"MTLCommandQueue", {}, {}}, command_class = {"MTLCommandBuffer", {}, {}},
      encoder_class = {"MTLComputeCommandEncoder", {}, {}};

struct Device : Object {
    Device() : Object(&device_class) {}
};
struct Options : Object {
    bool exact = false;
    Options() : Object(&options_class) {}
};
struct Library : Object {
    const MetalKernel *kernels;
    explicit Library(const MetalKernel *k) : Object(&library_class), kernels(k) {}
};
struct Function : Object {
    Library *library;
    const MetalKernel *kernel;
    Function(Library *l, const MetalKernel *k) : Object(&function_class), library(l), kernel(k) {
        retain(l);
    }
};
struct Pipeline : Object {
    Function *function;
    explicit Pipeline(Function *f) : Object(&pipeline_class), function(f) { retain(f); }
};
struct Buffer : Object {
    char *memory, *mapped;
    unsigned long length, mapped_length;  // 0: somebody else's memory
    Buffer(char *m, unsigned long l, char *map, unsigned long map_length)
        : Object(&buffer_class), memory(m), mapped(map), length(l), mapped_length(map_length) {
        allocated += l;
        if (!map_length) in_place += l;
    }
};
struct Bound {
    Buffer *buffer = nullptr;
    unsigned long offset = 0;
};
struct Launch {
    Pipeline *pipeline;
    std::vector<Bound> bound;
    Size groups, threads;
};
struct Command;
struct Queue : Object {
    std::vector<Command *> waiting;
    Queue() : Object(&queue_class) {}
};
struct Command : Object {
    Queue *queue;
    Status status = NOT_ENQUEUED;
    Error *error = nullptr;
    bool encoding = false;
    std::vector<Launch> launches;
    std::vector<Object *> held;
    explicit Command(Queue *q) : Object(&command_class), queue(q) { retain(q); }
    void hold(Object *object) { held.push_back(retain(object)); }
};
struct Encoder : Object {
    Command *command;
    bool ended = false;
    Pipeline *pipeline = nullptr;
    std::vector<Bound> bound{BUFFERS};
    explicit Encoder(Command *c) : Object(&encoder_class), command(c) { retain(c); }
};

long setting(const char *name, long otherwise) {
    auto found = settings.find(name);
    return found == settings.end() ? otherwise : found->second;
}

// Whether the nth from now, as a test has set it, is this one.
bool happens(const char *name) {
    auto found = settings.find(name);
    if (found == settings.end() || found->second <= 0) return false;
    return --found->second == 0;
}

void tell(Error **error, long code, const std::string &text) {
    if (error) *error = (Error *)autorelease(new Error(code, text));
}

// --- device --------------------------------------------------------------------------------------

Object *name_of(Device *, Selector) { return autorelease(new String("Fake M1")); }
unsigned long working_set(Device *, Selector) { return setting("working_set", 1l << 36); }
unsigned long most_of_a_buffer(Device *, Selector) { return setting("max_buffer", 1l << 35); }
unsigned long allocated_size(Device *, Selector) { return allocated; }
unsigned long most_threadgroup_memory(Device *, Selector) { return THREADGROUP_BYTES; }
Object *new_queue(Device *, Selector) { return happens("fail_queue") ? nullptr : new Queue; }

Object *new_buffer(Device *, Selector, unsigned long length, unsigned long options) {
    if (options != 0) misuse("only shared memory is known here, options are %lu", options);
    if (length == 0) misuse("a buffer of no bytes");
    if ((long)length > setting("max_buffer", 1l << 35))
        misuse("a buffer of %lu bytes is more than the device has", length);
    if (happens("fail_allocation")) return nullptr;
    // The end lies before pages that nobody may touch, as the beginning lies after some.
    unsigned long page = getpagesize(), whole = (length + page - 1) / page * page;
    char *mapped = (char *)mmap(nullptr, whole + 2 * GUARD, PROT_NONE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    mprotect(mapped + GUARD, whole, PROT_READ | PROT_WRITE);
    char *memory = mapped + GUARD + whole - (length + 15) / 16 * 16;
    return new Buffer(memory, length, mapped, whole + 2 * GUARD);
}

// Whether a range lies within one mapping of a file.
bool is_mapped(unsigned long begin, unsigned long end) {
    std::ifstream maps("/proc/self/maps");
    std::string line;
    while (std::getline(maps, line)) {
        unsigned long first, after;
        int name = 0;
        sscanf(line.c_str(), "%lx-%lx %*s %*s %*s %*s %n", &first, &after, &name);
        if (first <= begin && begin < after) return end <= after && line[name] == '/';
    }
    return false;
}

Object *new_buffer_over(Device *, Selector, char *memory, unsigned long length,
                        unsigned long options, void *deallocator) {
    unsigned long page = setting("page", getpagesize());
    if (options != 0 || deallocator) misuse("only shared memory without an end of its own is known");
    if ((uintptr_t)memory % page || length % page || length == 0)
        misuse("memory at %p, %lu bytes, isn't of whole pages of %lu", memory, length, page);
    else if (!is_mapped((uintptr_t)memory, (uintptr_t)memory + length))
        misuse("memory at %p, %lu bytes, isn't of one mapped file", memory, length);
    if (setting("never_in_place", 0)) length = 0;  // as on virtual machines
    if ((long)length > setting("max_buffer", 1l << 35))
        misuse("a buffer of %lu bytes is more than the device has", length);
    if (happens("fail_in_place")) return nullptr;
    return new Buffer(memory, length, memory, 0);
}

Object *new_library(Device *, Selector, String *source, Options *options, Error **error) {
    if (options && is_a(options, &options_class) && !options->exact)
        misuse("mathematics would be fast, not exact");
    if (!options) misuse("mathematics would be fast, not exact");
    if (setting("fail_compile", 0)) return tell(error, 3, "program_source:7: a fault"), nullptr;
    std::string answer(4096, 0);
    int failed = compile(source->text.c_str(), answer.data(), (int)answer.size());
    answer.resize(strlen(answer.c_str()));
    if (failed) return tell(error, 3, answer), nullptr;
    void *opened = dlopen(answer.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!opened) return tell(error, 3, dlerror()), nullptr;
    *(MetalSteps *)dlsym(opened, "metal_steps") = steps_of_threads;
    return new Library((const MetalKernel *)dlsym(opened, "metal_kernels"));
}

Object *new_pipeline(Device *, Selector, Function *function, Error **error) {
    if (!is_a(function, &function_class)) return nullptr;
    const MetalKernel *kernel = function->kernel;
    if (setting("fail_pipeline", 0)) return tell(error, 2, "no place for registers"), nullptr;
    if (kernel->shared_end - kernel->shared > THREADGROUP_BYTES)
        return tell(error, 2, "more threadgroup memory than there is"), nullptr;
    return new Pipeline(function);
}

// --- what a device makes -------------------------------------------------------------------------

Object *new_options(Object *, Selector) { return new Options; }
void set_fast(Options *self, Selector, bool fast) { self->exact = !fast; }
void set_mode(Options *self, Selector, long mode) { self->exact = mode == 0; }

Object *new_function(Library *self, Selector, String *name) {
    for (const MetalKernel *kernel = self->kernels; kernel->name; kernel++)
        if (name->text == kernel->name) return new Function(self, kernel);
    return nullptr;
}

unsigned long most_threads(Pipeline *, Selector) { return setting("max_threads", THREADS); }

void *contents(Buffer *self, Selector) { return self->memory; }
unsigned long length(Buffer *self, Selector) { return self->length; }

Object *command_buffer(Queue *self, Selector) { return autorelease(new Command(self)); }

// --- commands ------------------------------------------------------------------------------------

void fail(Command *command, long code, const std::string &text) {
    command->status = FAILED;
    if (!command->error) command->error = new Error(code, text);
}

void execute(Command *command) {
    command->status = COMPLETED;
    long code = setting("fail_command", 0);
    if (code && !--settings["fail_command_in"]) return fail(command, code, "told to fail");
    for (Launch &launch : command->launches) {
        const MetalKernel *kernel = launch.pipeline->function->kernel;
        void *places[BUFFERS] = {};
        for (int i = 0; i < BUFFERS; i++) {
            const Bound &bound = launch.bound[i];
            if (bound.buffer) places[i] = bound.buffer->memory + bound.offset;
        }
        unsigned groups[3] = {(unsigned)launch.groups.x, (unsigned)launch.groups.y,
                              (unsigned)launch.groups.z};
        unsigned size[3] = {(unsigned)launch.threads.x, (unsigned)launch.threads.y,
                            (unsigned)launch.threads.z};
        std::string fault = run_groups(*kernel, places, groups, size, launches++);
        if (std::find(ran.begin(), ran.end(), kernel->name) == ran.end())
            ran.push_back(kernel->name);
        if (!fault.empty()) {
            misuse("%s: %s", kernel->name, fault.c_str());
            return fail(command, 3, std::string(kernel->name) + ": " + fault);
        }
    }
}

void commit(Command *self, Selector) {
    if (self->encoding) misuse("a command buffer is committed while its encoder hasn't ended");
    if (self->status != NOT_ENQUEUED) return misuse("a command buffer is committed twice");
    self->status = COMMITTED;
    self->queue->waiting.push_back((Command *)retain(self));
}

void wait(Command *self, Selector) {
    if (self->status == NOT_ENQUEUED) misuse("a command buffer is waited for that isn't committed");
    Queue *queue = self->queue;
    while (self->status == COMMITTED) {
        Command *next = queue->waiting.front();
        queue->waiting.erase(queue->waiting.begin());
        execute(next);
        release(next);
    }
}

long status(Command *self, Selector) { return self->status; }
Object *error_of(Command *self, Selector) { return self->error; }

Object *new_encoder(Command *self, Selector) {
    if (self->encoding) misuse("a command buffer has two encoders at once");
    if (self->status != NOT_ENQUEUED) misuse("commands are encoded after the commit");
    self->encoding = true;
    return autorelease(new Encoder(self));
}

// --- encoder -------------------------------------------------------------------------------------

bool open(Encoder *self) {
    if (self->ended) misuse("commands are encoded after endEncoding");
    return !self->ended;
}

void set_pipeline(Encoder *self, Selector, Pipeline *pipeline) {
    if (!open(self) || !is_a(pipeline, &pipeline_class)) return;
    self->pipeline = pipeline;
    self->command->hold(pipeline);
}

void set_buffers(Encoder *self, Selector, Buffer *const *buffers, const unsigned long *offsets,
                 Range range) {
    if (!open(self)) return;
    if (range.location + range.length > BUFFERS)
        return misuse("there are no buffers %lu to %lu", range.location, range.length);
    for (unsigned long i = 0; i < range.length; i++) {
        Buffer *buffer = buffers[i];
        if (!is_a(buffer, &buffer_class)) continue;
        if (offsets[i] >= buffer->length)
            misuse("offset %lu in a buffer of %lu bytes", offsets[i], buffer->length);
        self->bound[range.location + i] = {buffer, offsets[i]};
        self->command->hold(buffer);
    }
}

std::string fault_of(Encoder *self, Size groups, Size threads) {
    if (!self->pipeline) return "no pipeline state is set";
    const MetalKernel *kernel = self->pipeline->function->kernel;
    if (!groups.x || !groups.y || !groups.z || !threads.x || !threads.y || !threads.z)
        return "nothing is dispatched";
    if (std::max({groups.x, groups.y, groups.z}) > UINT32_MAX) return "too many thread groups";
    if (threads.x * threads.y * threads.z > most_threads(nullptr, nullptr))
        return "too many threads in a group";
    for (int i = 0; i < kernel->count; i++) {
        const MetalParameter &parameter = kernel->parameters[i];
        const Bound &bound = self->bound[parameter.index];
        if (!bound.buffer) return std::string(parameter.name) + " isn't bound";
        if (bound.buffer->length - bound.offset < parameter.bytes)
            return std::string(parameter.name) + " has too few bytes";
        if (bound.offset % parameter.alignment)
            return std::string(parameter.name) + " isn't aligned";
    }
    return "";
}

void dispatch(Encoder *self, Selector, Size groups, Size threads) {
    if (!open(self)) return;
    std::string fault = fault_of(self, groups, threads);
    if (!fault.empty())
        return misuse("%s: %s", self->pipeline ? self->pipeline->function->kernel->name : "dispatch",
                      fault.c_str());
    self->command->launches.push_back({self->pipeline, self->bound, groups, threads});
}

void end_encoding(Encoder *self, Selector) {
    if (self->ended) misuse("an encoder ends twice");
    self->ended = true;
    self->command->encoding = false;
}

struct Metal {
    Metal() {
        device_class.methods = {
            {"name", method(name_of)},
            {"recommendedMaxWorkingSetSize", method(working_set)},
            {"maxBufferLength", method(most_of_a_buffer)},
            {"currentAllocatedSize", method(allocated_size)},
            {"maxThreadgroupMemoryLength", method(most_threadgroup_memory)},
            {"newCommandQueue", method(new_queue)},
            {"newBufferWithLength:options:", method(new_buffer)},
            {"newBufferWithBytesNoCopy:length:options:deallocator:", method(new_buffer_over)},
            {"newLibraryWithSource:options:error:", method(new_library)},
            {"newComputePipelineStateWithFunction:error:", method(new_pipeline)}};
        options_class.of_class = {{"new", method(new_options)}};
        options_class.methods = {{"setFastMathEnabled:", method(set_fast)}};
        library_class.methods = {{"newFunctionWithName:", method(new_function)}};
        pipeline_class.methods = {{"maxTotalThreadsPerThreadgroup", method(most_threads)}};
        buffer_class.methods = {{"contents", method(contents)}, {"length", method(length)}};
        queue_class.methods = {{"commandBuffer", method(command_buffer)}};
        command_class.methods = {{"computeCommandEncoder", method(new_encoder)},
                                 {"commit", method(commit)},
                                 {"waitUntilCompleted", method(wait)},
                                 {"status", method(status)},
                                 {"error", method(error_of)}};
        encoder_class.methods = {
            {"setComputePipelineState:", method(set_pipeline)},
            {"setBuffers:offsets:withRange:", method(set_buffers)},
            {"dispatchThreadgroups:threadsPerThreadgroup:", method(dispatch)},
            {"endEncoding", method(end_encoding)}};
        function_class.end = [](Object *self) { release(((Function *)self)->library); };
        pipeline_class.end = [](Object *self) { release(((Pipeline *)self)->function); };
        encoder_class.end = [](Object *self) {
            if (!((Encoder *)self)->ended) misuse("an encoder is released before it has ended");
            release(((Encoder *)self)->command);
            std::vector<Bound>().swap(((Encoder *)self)->bound);
        };
        command_class.end = [](Object *self) {
            Command *command = (Command *)self;
            for (Object *object : command->held) release(object);
            std::vector<Object *>().swap(command->held);
            std::vector<Launch>().swap(command->launches);
            release(command->error);
            release(command->queue);
        };
        buffer_class.end = [](Object *self) {
            Buffer *buffer = (Buffer *)self;
            allocated -= buffer->length;
            if (!buffer->mapped_length) in_place -= buffer->length;
            if (buffer->mapped_length) munmap(buffer->mapped, buffer->mapped_length);
        };
        for (Class *each : {&device_class, &options_class, &library_class, &function_class,
                            &pipeline_class, &buffer_class, &queue_class, &command_class,
                            &encoder_class})
            declare(each);
    }
} metal;

}  // namespace

extern "C" {

Object *MTLCreateSystemDefaultDevice() { return setting("devices", 1) ? new Device : nullptr; }

// --- for tests -----------------------------------------------------------------------------------

void fake_set(const char *name, long value) {
    settings[name] = value;
    if (!strcmp(name, "newest"))  // macOS 15 has another name for exact mathematics
        options_class.methods[value ? "setMathMode:" : "setFastMathEnabled:"] =
            value ? method(set_mode) : method(set_fast);
}
void fake_unset() { settings.clear(); }
void fake_compiler(int (*its)(const char *, char *, int)) { compile = its; }
unsigned long fake_launches() { return launches; }
unsigned long fake_in_place() { return in_place; }
const char *fake_ran(int index) { return index < (int)ran.size() ? ran[index].c_str() : nullptr; }
}
