#include "objects.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <set>

std::recursive_mutex lock;

namespace {

// Made when first asked for, for classes are declared while the library is loaded.
struct World {
    std::vector<std::string> misuses;
    std::set<Object *> objects;
    std::set<std::string> selectors;
    std::map<std::string, Object *> classes;  // as objects
};

World &world() {
    static World &only = *new World;
    return only;
}

thread_local std::vector<std::vector<Object *>> pools;

Class string_class = {"NSString", {}, {}}, error_class = {"NSError", {}, {}};

void *nothing(Object *, Selector) { return nullptr; }

bool responds(Object *self, Selector, Selector asked) {
    return self->isa->methods.count(asked) > 0;
}

const char *utf8(String *self, Selector) { return self->text.c_str(); }
Object *string_of(Object *, Selector, const char *text) { return autorelease(new String(text)); }
Object *description(Error *self, Selector) { return self->description; }
long code(Error *self, Selector) { return self->code; }
Object *retained(Object *self, Selector) { return retain(self); }
Object *autoreleased(Object *self, Selector) { return autorelease(self); }
void released(Object *self, Selector) { release(self); }

struct Foundation {
    Foundation() {
        string_class.methods = {{"UTF8String", method(utf8)}};
        string_class.of_class = {{"stringWithUTF8String:", method(string_of)}};
        error_class.methods = {{"localizedDescription", method(description)}, {"code", method(code)}};
        error_class.end = [](Object *self) { release(((Error *)self)->description); };
        declare(&string_class);
        declare(&error_class);
    }
} foundation;

}  // namespace

Object::Object(Class *its_class) : isa(its_class) {
    Locked locked(lock);
    world().objects.insert(this);
}

String::String(std::string its_text) : Object(&string_class), text(std::move(its_text)) {}

Error::Error(long its_code, const std::string &text)
    : Object(&error_class), code(its_code), description(new String(text)) {}

void misuse(const char *format, ...) {
    char text[300];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    Locked locked(lock);
    world().misuses.push_back(text);
}

void declare(Class *declared) {
    Methods common = {{"retain", method(retained)},
                      {"release", method(released)},
                      {"autorelease", method(autoreleased)},
                      {"respondsToSelector:", method(responds)}};
    declared->methods.insert(common.begin(), common.end());
    Object *object = new Object(declared);
    object->is_class = true;
    world().classes[declared->name] = object;
}

Object *retain(Object *object) {
    Locked locked(lock);
    object->count++;
    return object;
}

void release(Object *object) {
    Locked locked(lock);
    if (!object || object->is_class) return;
    if (object->count <= 0) return misuse("%s is released too often", object->isa->name);
    if (--object->count == 0 && object->isa->end) object->isa->end(object);
}

Object *autorelease(Object *object) {
    if (pools.empty())
        misuse("%s is left to a pool, and there is none", object->isa->name);
    else
        pools.back().push_back(object);
    return object;
}

bool is_a(Object *object, const Class *wanted) {
    Locked locked(lock);
    if (world().objects.count(object) && object->isa == wanted && object->count > 0) return true;
    misuse("a %s is needed, and given is %s", wanted->name,
           !object                  ? "nil"
           : world().objects.count(object) ? object->count > 0 ? object->isa->name : "what was released"
                                    : "no object");
    return false;
}

extern "C" {

void *objc_method_of(Object *self, Selector selector) {
    Locked locked(lock);
    if (!self) return method(nothing);
    if (!world().objects.count(self)) {
        misuse("%s is sent to what is no object", selector);
        return method(nothing);
    }
    if (self->count <= 0) {
        misuse("%s is sent to a released %s", selector, self->isa->name);
        return method(nothing);
    }
    Methods &methods = self->is_class ? self->isa->of_class : self->isa->methods;
    auto found = methods.find(selector);
    if (found != methods.end()) return found->second;
    misuse("%s doesn't know %s", self->isa->name, selector);
    return method(nothing);
}

// Finds the method and jumps to it, whatever its arguments are.
#if defined(__x86_64__)
asm(".globl objc_msgSend\n"
    "objc_msgSend:\n"
    "  push %rbp\n  mov %rsp, %rbp\n"
    "  push %rdi\n  push %rsi\n  push %rdx\n  push %rcx\n  push %r8\n  push %r9\n"
    "  call objc_method_of@PLT\n"
    "  pop %r9\n  pop %r8\n  pop %rcx\n  pop %rdx\n  pop %rsi\n  pop %rdi\n"
    "  pop %rbp\n  jmp *%rax\n");
#elif defined(__aarch64__)
asm(".globl objc_msgSend\n"
    "objc_msgSend:\n"
    "  stp x29, x30, [sp, #-96]!\n  mov x29, sp\n"
    "  stp x0, x1, [sp, #16]\n  stp x2, x3, [sp, #32]\n  stp x4, x5, [sp, #48]\n"
    "  stp x6, x7, [sp, #64]\n  str x8, [sp, #80]\n"
    "  bl objc_method_of\n"
    "  mov x16, x0\n"
    "  ldp x0, x1, [sp, #16]\n  ldp x2, x3, [sp, #32]\n  ldp x4, x5, [sp, #48]\n"
    "  ldp x6, x7, [sp, #64]\n  ldr x8, [sp, #80]\n"
    "  ldp x29, x30, [sp], #96\n  br x16\n");
#else
#error "objc_msgSend is written for x86-64 and 64-bit Arm"
#endif

Selector sel_registerName(const char *name) {
    Locked locked(lock);
    return world().selectors.insert(name).first->c_str();
}

Object *objc_getClass(const char *name) {
    Locked locked(lock);
    auto found = world().classes.find(name);
    return found == world().classes.end() ? nullptr : found->second;
}

void *objc_autoreleasePoolPush() {
    pools.emplace_back();
    return (void *)pools.size();
}

void objc_autoreleasePoolPop(void *pool) {
    if ((size_t)pool != pools.size()) misuse("pools are left in another order than entered");
    if (pools.empty()) return;
    std::vector<Object *> last = std::move(pools.back());
    pools.pop_back();
    for (Object *object : last) release(object);
}

// --- for tests -----------------------------------------------------------------------------------

int fake_misuses() { return (int)world().misuses.size(); }
const char *fake_misuse(int index) { return world().misuses[index].c_str(); }
void fake_forget() { world().misuses.clear(); }

// Names of the objects that somebody still holds, with commas.
const char *fake_alive() {
    Locked locked(lock);
    static std::string names;
    names.clear();
    for (Object *object : world().objects)
        if (object->count > 0 && !object->is_class)
            names += (names.empty() ? "" : ", ") + std::string(object->isa->name);
    return names.c_str();
}
}
