// Keeps a channel of a row's keys or values in the state of its slot (state.h). NaN is kept as 0, so
// that what a slot holds beyond its last row is harmless.
void keep_key(GLOBAL Kept *keys, float x, int place, int position, int channel, int width,
              int context) {
    int at = place * context * width + position / BESIDE_KEYS * BESIDE_KEYS * width +
             channel * BESIDE_KEYS + position % BESIDE_KEYS;
    KEEP(x == x ? x : 0.0f, keys, at);
}

void keep_value(GLOBAL Kept *values, float x, int place, int position, int channel, int width,
                int context) {
    KEEP(x == x ? x : 0.0f, values, (place * context + position) * PADDED(width) + channel);
}

// edge_store: keeps the rows' keys and values.
// `step`; the state's keys and its values; keys and values f32 [heads * width] for each row; heads,
// width, context. Launched over (heads * width, rows).
KERNEL(edge_store, GLOBAL const int *step, GLOBAL Kept *kept_keys, GLOBAL Kept *kept_values,
       GLOBAL const float *keys, GLOBAL const float *values, NUMBER(int, heads),
       NUMBER(int, width), NUMBER(int, context)) {
    int index = INDEX, row = GROUP(1), at = row * heads * width + index;
    if (index >= heads * width) return;
    int place = SLOT(step, row) * heads + index / width, position = POSITION(step, row);
    keep_key(kept_keys, keys[at], place, position, index % width, width, context);
    keep_value(kept_values, values[at], place, position, index % width, width, context);
}

// edge_rotate_store: edge_rotate of queries and of keys, and edge_store, at once.
// `step`; the turned queries, f32 [heads * width] for each row, and what they were; the table; the
// state's keys and its values; keys and values f32 [key_heads * width] for each row; heads, key
// heads, width; channels turned; pairs; context. Launched over (width of all three, rows).
KERNEL(edge_rotate_store, GLOBAL const int *step, GLOBAL float *out, GLOBAL const float *q,
       GLOBAL const float *table, GLOBAL Kept *kept_keys, GLOBAL Kept *kept_values,
       GLOBAL const float *keys, GLOBAL const float *values, NUMBER(int, heads),
       NUMBER(int, key_heads), NUMBER(int, width), NUMBER(int, turned), NUMBER(int, pairs),
       NUMBER(int, context)) {
    int index = INDEX, row = GROUP(1), position = POSITION(step, row), channel = index % width;
    int of_q = heads * width, of_k = key_heads * width;
    GLOBAL const float *angles = table + position * turned;
    if (index < of_q) {
        int at = row * of_q + index;
        out[at] = rotated(q + at, angles, channel, turned, pairs);
        return;
    }
    index -= of_q;
    int is_value = index >= of_k;
    if (is_value) index -= of_k;
    if (index >= of_k) return;
    int place = SLOT(step, row) * key_heads + index / width, at = row * of_k + index;
    if (is_value)
        keep_value(kept_values, values[at], place, position, channel, width, context);
    else
        keep_key(kept_keys, rotated(keys + at, angles, channel, turned, pairs), place, position,
                 channel, width, context);
}
