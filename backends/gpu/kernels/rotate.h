// A channel of a head after pairs of its leading `turned` channels are turned by the angles of a
// position: its cosines and sines are in `angles`, [2][turned / 2]. `x` points at the channel as it
// was. With `pairs` 0 x[i] goes with x[i + turned / 2], with 1 x[2i] with x[2i + 1].
float rotated(GLOBAL const float *x, GLOBAL const float *angles, int channel, int turned,
              int pairs) {
    int half_ = turned / 2;
    if (channel >= turned) return *x;
    int pair = pairs ? channel / 2 : channel % half_, other = pairs ? 1 : half_;
    int second = pairs ? channel % 2 : channel / half_;
    float cosine = angles[pair], sine = angles[half_ + pair];
    return second ? FMA(x[-other], sine, *x * cosine) : FMA(-x[other], sine, *x * cosine);
}
