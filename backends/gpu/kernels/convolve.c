// edge_conv_store: keeps the rows' inputs in the state of their slots, f32 [slots][context][width].
// `step`; the state; x f32 [width] for each row; width, context. Launched over (width, rows).
KERNEL(edge_conv_store, GLOBAL const int *step, GLOBAL float *state, GLOBAL const float *x,
       NUMBER(int, width), NUMBER(int, context)) {
    int column = INDEX, row = GROUP(1);
    if (column < width)
        state[(SLOT(step, row) * context + POSITION(step, row)) * width + column] =
            x[row * width + column];
}

// edge_convolve: each channel filtered over the positions up to the row's own; before the first they
// are 0. `step`; out f32 [width] for each row; the state; the filters f32 [width][taps], the last
// tap for the row's own position; width, taps, context. Launched over (width, rows).
KERNEL(edge_convolve, GLOBAL const int *step, GLOBAL float *out, GLOBAL const float *state,
       GLOBAL const float *filters, NUMBER(int, width), NUMBER(int, taps),
       NUMBER(int, context)) {
    int column = INDEX, row = GROUP(1), position = POSITION(step, row);
    if (column >= width) return;
    GLOBAL const float *past = state + (SLOT(step, row) * context + position) * width + column;
    float sum = 0.0f;
    for (int tap = 0; tap < taps; tap++) {
        int behind = taps - 1 - tap;
        if (behind <= position)
            sum = FMA(past[-behind * width], filters[column * taps + tap], sum);
    }
    out[row * width + column] = sum;
}
