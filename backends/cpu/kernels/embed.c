// edge_embed: each row's token (or position) looked up in a table of packed weights.
// buffers: out f32 [D], the table; numbers: Format, D, rows of the table, 0 for tokens or
// 1 for positions. An index outside the table gives zeros.
#include "formats.h"

// Decodes a whole group and takes one row of it: 8 times the work, still far less than one
// matrix product.
INLINE void look_up(int format, float *out, const uint8_t *group, int lane, int64_t width) {
    const Layout layout = LAYOUTS[format];
    for (int64_t b = 0; b < width / 32; b += layout.inputs / 32) {
        for (int part = 0; part < layout.inputs / 32; part++) {
            Block block;
            read_block(&block, format, group, part);
            for (int i = 0; i < 32; i++, out++) {
                uint8_t code = block.code[i / 4][lane * 4 + i % 4];
                int value = (layout.limit == 128 ? (int8_t)code : code) - layout.offset;
                int half = layout.halves ? i / 16 : 0;
                *out = block.scale[half][lane] * (float)value;
                if (layout.minimum) *out += block.minimum[half][lane];
            }
        }
        group += layout.bytes;
    }
}

INLINE void look_up_floats(int format, float *out, const uint8_t *group, int lane, int64_t width) {
    for (int64_t i = 0; i < width; i++) out[i] = load_weights(format, group, i)[lane];
}

static void embed(int format, float *out, const uint8_t *group, int lane, int64_t width) {
    switch (format) {
    case FORMAT_F32: look_up_floats(FORMAT_F32, out, group, lane, width); break;
    case FORMAT_F16: look_up_floats(FORMAT_F16, out, group, lane, width); break;
    case FORMAT_BF16: look_up_floats(FORMAT_BF16, out, group, lane, width); break;
    case FORMAT_Q4_0: look_up(FORMAT_Q4_0, out, group, lane, width); break;
    case FORMAT_Q4_1: look_up(FORMAT_Q4_1, out, group, lane, width); break;
    case FORMAT_Q5_0: look_up(FORMAT_Q5_0, out, group, lane, width); break;
    case FORMAT_Q5_1: look_up(FORMAT_Q5_1, out, group, lane, width); break;
    case FORMAT_Q8_0: look_up(FORMAT_Q8_0, out, group, lane, width); break;
    case FORMAT_Q4_K: look_up(FORMAT_Q4_K, out, group, lane, width); break;
    case FORMAT_Q5_K: look_up(FORMAT_Q5_K, out, group, lane, width); break;
    case FORMAT_Q6_K: look_up(FORMAT_Q6_K, out, group, lane, width); break;
    case FORMAT_Q2_K: look_up(FORMAT_Q2_K, out, group, lane, width); break;
    case FORMAT_IQ4_NL: look_up(FORMAT_IQ4_NL, out, group, lane, width); break;
    case FORMAT_IQ4_XS: look_up(FORMAT_IQ4_XS, out, group, lane, width); break;
    default: break;
    }
}

static int embed_parts(const Call *call, const Step *step) {
    (void)call;
    int most = 4 * step->threads;
    return step->threads == 1 ? 1 : step->rows < most ? step->rows : most;
}

static void embed_run(const Call *call, const Step *step, int part, int parts) {
    int format = (int)call->numbers[0];
    int64_t width = call->numbers[1], table = call->numbers[2];
    const int32_t *index = call->numbers[3] ? step->positions : step->tokens;
    int64_t rows = step->rows, first = rows * part / parts, last = rows * (part + 1) / parts;
    for (int64_t row = first; row < last; row++) {
        float *out = (float *)call->buffers[0] + row * width;
        if (index[row] < 0 || index[row] >= table) {
            memset(out, 0, (size_t)width * sizeof *out);
            continue;
        }
        const uint8_t *weight = call->buffers[1];
        const uint8_t *group = weight + index[row] / LANES * group_bytes(format, width);
        embed(format, out, group, index[row] % LANES, width);
    }
}

const Kernel edge_embed = {embed_parts, embed_run, NULL};
