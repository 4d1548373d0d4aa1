// edge_store: keeps the rows' keys and values in the state of their slots (state.h).
// `step`; the state's keys and its values; keys and values f32 [heads * width] for each row; heads,
// width, context. Launched over (heads * width, rows). NaN is kept as 0, so that what a slot holds
// beyond its last row is harmless.
KERNEL(edge_store, GLOBAL const int *step, GLOBAL Kept *kept_keys, GLOBAL Kept *kept_values,
       GLOBAL const float *keys, GLOBAL const float *values, NUMBER(int, heads),
       NUMBER(int, width), NUMBER(int, context)) {
    int index = INDEX, head = index / width, channel = index % width, row = GROUP(1);
    if (index >= heads * width) return;
    int place = SLOT(step, row) * heads + head, position = POSITION(step, row);
    float key = keys[row * heads * width + index], value = values[row * heads * width + index];
    int of_key = place * context * width + position / BESIDE_KEYS * BESIDE_KEYS * width +
                 channel * BESIDE_KEYS + position % BESIDE_KEYS;
    int of_value = (place * context + position) * PADDED(width) + channel;
    KEEP(key == key ? key : 0.0f, kept_keys, of_key);
    KEEP(value == value ? value : 0.0f, kept_values, of_value);
}
