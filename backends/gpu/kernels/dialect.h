// The dialect that kernels are written in: C as OpenCL and Metal both know it, and what differs as
// macros, which each language's header defines before this text:
//
//   KERNEL(name, parameters...)   a kernel; parameters are `GLOBAL T *x` and NUMBER(T, x)
//   GLOBAL, LOCAL, PRIVATE        address spaces of pointers: the device's memory, that of a group
//                                 of work items, a work item's own
//   NUMBER(T, x)                  a parameter that is a number: int or float
//   GROUP(d), ITEM                the group's place in dimension d, the work item's in its group;
//   INDEX                         its place in the first dimension, groups and all; all three only
//                                 in the body of a kernel
//   BARRIER                       waits for the group's other work items, and their LOCAL stores
//   FMA(a, b, c)                  a * b + c, rounded once where the device does that fast
//   AS_FLOAT(x)                   the bits of a uint as those of a float
//   FLOAT_OF_HALF(p, i)           element i of GLOBAL halves (as ushort) as float
//   HALF_OF_FLOAT(x, p, i)        stores a float as such an element, rounded to nearest
//   EXP(x), TANH(x)               to within some units in the last place
//   ROW_FUNCTION(name, ...)       calls a row function that tinygrad wrote, with what else it needs
//
// and, for vectors of WIDE numbers (1, 4 or 8, as far as About.wide says; WIDE is defined by
// whoever assembles the text):
//
//   Floats, Words                 of float and of uint
//   SPLAT(x)                      x in every place
//   LOAD_FLOATS(p), STORE_FLOATS(v, p)                     at any float of any address space
//   LOAD_WORDS(p)                                          at any GLOBAL uint
//   LOAD_HALVES(p), STORE_HALVES(v, p)                     Floats from and to halves (as ushort)
//   LOAD_BFLOATS(p)                                        Floats from the upper halves of floats
//   LOAD_BYTES(p), LOAD_SIGNED_BYTES(p)                    Floats from uchar and char
//   AS_FLOATS(v)                                           the bits of Words as those of Floats
//   FROM_SIGNED_BYTE(v, j)                                 byte j of each word as int8
//
// Where HALF_ARITHMETIC is defined, Reals is a vector of halves and Real a half, else Floats and
// float; REALS(v), REAL_SPLAT(x) and FLOATS_OF_REALS(v) convert, REAL_FMA adds up.
//
// Rules: no operation is contracted (FMA says where); LOCAL arrays are declared at the top of a
// kernel's body; every work item of a group meets every BARRIER.
#define GROUP_ROWS 8  // rows that weights are packed in together: edgellm/packing.py

// The step, as the host writes it: how many rows the body has and how many the head, and of each
// row what is fed to it. `gather` takes rows to the head.
#define STEP_HEADER 4
#define ROWS_OF(step, part) ((step)[part])  // 0: the body, 1: the head
#define TOKEN(step, row) ((step)[STEP_HEADER + 4 * (row)])
#define POSITION(step, row) ((step)[STEP_HEADER + 4 * (row) + 1])
#define SLOT(step, row) ((step)[STEP_HEADER + 4 * (row) + 2])
#define WANTED(step, row) ((step)[STEP_HEADER + 4 * (row) + 3])
