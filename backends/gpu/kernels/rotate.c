// edge_rotate: turns a row's heads to their position: rotate.h.
// `step`; out and x f32 [heads * width] for each row; table f32 [positions][2][turned / 2] of
// cosines and sines; heads, width; channels turned; pairs. Launched over (heads * width, rows).
KERNEL(edge_rotate, GLOBAL const int *step, GLOBAL float *out, GLOBAL const float *x,
       GLOBAL const float *table, NUMBER(int, heads), NUMBER(int, width), NUMBER(int, turned),
       NUMBER(int, pairs)) {
    int index = INDEX, row = GROUP(1), at = row * heads * width + index;
    if (index < heads * width)
        out[at] = rotated(x + at, table + POSITION(step, row) * turned, index % width, turned, pairs);
}
