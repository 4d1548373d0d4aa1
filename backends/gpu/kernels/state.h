// What one attention layer remembers, for all slots: keys [slots][heads][context / 16][width][16],
// then values [slots][heads][context][padded], `padded` being the width in whole GROUP_ROWS. Sixteen
// keys lie side by side, so that as many scores grow at once; of the values, one position's
// channels do. They are floats, or halves where KV_HALF is defined.
#define BESIDE_KEYS 16
#ifdef KV_HALF
typedef ushort Kept;
#define LOAD_KEPT(p) LOAD_HALVES(p)
#define KEEP(x, p, i) HALF_OF_FLOAT(fmin(fmax(x, -65504.0f), 65504.0f), p, i)
#else
typedef float Kept;
#define LOAD_KEPT(p) LOAD_FLOATS(p)
#define KEEP(x, p, i) ((p)[i] = (x))
#endif
#define PADDED(width) (((width) + GROUP_ROWS - 1) / GROUP_ROWS * GROUP_ROWS)
