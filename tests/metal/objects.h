// Objective-C's objects as far as Metal's host code sees them: classes, messages, reference counts.
//
// No object is ever freed, only what it holds, so that a message to a released one is noticed.
// Whatever a real run time would crash on, or leak, is noted as misuse.
#pragma once
#include <initializer_list>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

struct Object;
typedef const char *Selector;
typedef std::map<std::string, void *> Methods;

struct Class {
    const char *name;
    Methods methods, of_class;
    void (*end)(Object *) = nullptr;  // gives up what an object holds
};

struct Object {
    Class *isa;
    int count = 1;
    bool is_class = false;
    explicit Object(Class *its_class);
};

extern std::recursive_mutex lock;  // of everything here
typedef std::lock_guard<std::recursive_mutex> Locked;

void misuse(const char *format, ...) __attribute__((format(printf, 1, 2)));
void declare(Class *declared);
Object *retain(Object *object);
void release(Object *object);
Object *autorelease(Object *object);
bool is_a(Object *object, const Class *wanted);  // and alive; misuse otherwise

template <class F> void *method(F *function) { return (void *)function; }

struct String : Object {
    std::string text;
    explicit String(std::string its_text);
};

struct Error : Object {
    long code;
    String *description;
    Error(long its_code, const std::string &text);
};
