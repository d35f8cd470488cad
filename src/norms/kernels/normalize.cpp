// Normalization on CPU, forward and backward, for the four ways in which the values of one mean can lie in memory:
//
//   runs     (R, K, S)  all K * S values of a row r share a mean; the weight is per (r % G, k)
//            LayerNorm, RMSNorm: S = 1, G = 1. GroupNorm: K channels of S positions. InstanceNorm: K = 1, G = C.
//   channels (N, C, S)  BatchNorm, contiguous: a channel is N runs of S values
//   columns  (M, C)     BatchNorm, channels last or (N, C): a channel is a column
//   groups   (N, S, G, K) GroupNorm, channels last: K columns of each of N matrices share a mean
//
// The values of one mean are read three times while they are in the cache: for the mean, for the squared deviations
// from the mean, and for the output. The mean is rounded to float. The mean of the deviations is the error of this
// rounding (`rest`). The later passes correct for it, so that data far from zero keep their digits. A long sum adds
// floats within a block of values, and adds the sums of the blocks in double.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

struct bfloat16 {
    uint16_t bits;
};

inline float load(float value) { return value; }

inline float load(bfloat16 value) { return __builtin_bit_cast(float, uint32_t(value.bits) << 16); }

inline void store(float* to, float value) { *to = value; }

inline void store(bfloat16* to, float value) {
    uint32_t bits = __builtin_bit_cast(uint32_t, value);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    to->bits = uint16_t((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);  // a NaN must not round to infinity
}

// Sixteen floats at once. The compiler splits or joins them to fit the processor's registers.
typedef float floats __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t halfwords __attribute__((vector_size(32), aligned(2), may_alias));
constexpr int64_t WIDTH = 16;

inline floats load_many(const float* from) { return *reinterpret_cast<const floats*>(from); }

inline floats load_many(const bfloat16* from) {
    return (floats)(__builtin_convertvector(*reinterpret_cast<const halfwords*>(from), words) << 16);
}

inline void store_many(float* to, floats values) { *reinterpret_cast<floats*>(to) = values; }

inline void store_many(bfloat16* to, floats values) {
    words bits = (words)values;
    words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    rounded = values != values ? words{} + 0x7fc0 : rounded;
    *reinterpret_cast<halfwords*>(to) = __builtin_convertvector(rounded, halfwords);
}

typedef float half_floats __attribute__((vector_size(32), aligned(4), may_alias));
typedef double doubles __attribute__((vector_size(64)));

// The writes of a large output bypass the caches. The caches would fetch each line first and evict values that are read
// next.
#ifdef __AVX512F__
inline void store_past_caches(float* to, floats values) { _mm512_stream_ps(to, (__m512)values); }

inline void store_past_caches(bfloat16* to, floats values) {
    halfwords rounded;
    store_many(reinterpret_cast<bfloat16*>(&rounded), values);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), (__m256i)rounded);
}

inline void fence() { _mm_sfence(); }
#else
template <class T>
inline void store_past_caches(T* to, floats values) {
    store_many(to, values);
}

inline void fence() {}
#endif

constexpr int64_t LARGE = 1 << 23;  // bytes of an output whose writes bypass the caches

// Whether the writes of `count` values, in adjacent runs of `size` values, bypass the caches. Every run has to start at
// an address that is aligned for such writes.
template <class T>
inline bool is_large(const T* to, int64_t count, int64_t size) {
    bool aligned = size * sizeof(T) % 64 == 0 && reinterpret_cast<uintptr_t>(to) % 64 == 0;
    return aligned && count * int64_t(sizeof(T)) >= LARGE;
}

template <class T>
inline void put_many(T* to, floats values, bool large) {
    if (large)
        store_past_caches(to, values);
    else
        store_many(to, values);
}

inline double total(floats values) {
    const half_floats* halves = reinterpret_cast<const half_floats*>(&values);
    doubles sum = __builtin_convertvector(halves[0], doubles) + __builtin_convertvector(halves[1], doubles);
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

constexpr int64_t BLOCK = 128;              // vectors that are summed in float
constexpr int64_t WORTH_THREADS = 1 << 15;  // values, below which starting threads costs more than they save

// `NUM` sums over all values of `num_runs` runs of `size` values, `stride` apart. `add(sums, offset)` adds a vector,
// `add_one(sums, offset)` a single value. The sums of a block are floats; the blocks' sums are added in double.
template <int NUM, class Add, class AddOne>
void sum_runs(int64_t num_runs, int64_t stride, int64_t size, double* into, Add add, AddOne add_one) {
    floats even[NUM] = {}, odd[NUM] = {};
    int64_t whole = size / WIDTH * WIDTH, budget = BLOCK;
    auto flush = [&] {
        for (int k = 0; k < NUM; k++) {
            into[k] += total(even[k] + odd[k]);
            even[k] = odd[k] = floats{};
        }
        budget = BLOCK;
    };
    for (int64_t n = 0; n < num_runs; n++) {
        int64_t start = n * stride, end = start + whole, i = start;
        while (i < end) {
            int64_t until = std::min(end, i + 2 * WIDTH * std::max<int64_t>(budget / 2, 1));
            budget -= (until - i) / WIDTH;
            for (; i + 2 * WIDTH <= until; i += 2 * WIDTH) {
                add(even, i);
                add(odd, i + WIDTH);
            }
            if (i < until) {
                add(even, i);
                i += WIDTH;
            }
            if (budget <= 0) flush();
        }
        for (; i < start + size; i++) add_one(into, i);
    }
    flush();
}

struct Moments {
    double mean, var;
};

// Mean and biased variance of runs of values.
template <class T>
Moments moments(const T* x, int64_t num_runs, int64_t stride, int64_t size, bool about_zero) {
    double share = 1 / (double(num_runs) * double(size)), mean = 0, both[2] = {};
    if (!about_zero) {
        sum_runs<1>(
            num_runs, stride, size, &mean, [&](floats* sums, int64_t i) { sums[0] += load_many(x + i); },
            [&](double* sums, int64_t i) { sums[0] += load(x[i]); });
        mean *= share;
    }
    float center = float(mean);
    sum_runs<2>(
        num_runs, stride, size, both,
        [&](floats* sums, int64_t i) {
            floats deviation = load_many(x + i) - center;
            sums[0] += deviation;
            sums[1] += deviation * deviation;
        },
        [&](double* sums, int64_t i) {
            float deviation = load(x[i]) - center;
            sums[0] += deviation;
            sums[1] += double(deviation) * deviation;
        });
    double first = both[0] * share, second = both[1] * share;
    return about_zero ? Moments{0, second} : Moments{center + first, second - first * first};
}

// `many(i)` for each whole vector of n values, `one(i)` for each remaining value.
template <class Many, class One>
inline void each(int64_t n, Many many, One one) {
    int64_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) many(i);
    for (; i < n; i++) one(i);
}

template <class T>
inline void scale_and_shift(const T* x, T* y, int64_t n, float center, float scale, float shift, bool large) {
    each(
        n, [=](int64_t i) { put_many(y + i, (load_many(x + i) - center) * scale + shift, large); },
        [=](int64_t i) { store(y + i, (load(x[i]) - center) * scale + shift); });
}

// The sums of a backward pass: of dy, of dy * (x - center), and of x - center.
struct Sums {
    double dy = 0, dyx = 0, x = 0;
};

template <class T>
Sums backward_sums(const T* dy, const T* x, int64_t num_runs, int64_t stride, int64_t size, float center) {
    double sums[3] = {};
    sum_runs<3>(
        num_runs, stride, size, sums,
        [&](floats* sums, int64_t i) {
            floats g = load_many(dy + i), deviation = load_many(x + i) - center;
            sums[0] += g;
            sums[1] += g * deviation;
            sums[2] += deviation;
        },
        [&](double* sums, int64_t i) {
            float g = load(dy[i]), deviation = load(x[i]) - center;
            sums[0] += g;
            sums[1] += double(g) * deviation;
            sums[2] += deviation;
        });
    return Sums{sums[0], sums[1], sums[2]};
}

// dx = dy * by_dy + (x - center) * by_x + constant
template <class T>
inline void backward_run(const T* dy, const T* x, T* dx, int64_t n, float center, float by_dy, float by_x,
                         float constant, bool large) {
    each(
        n,
        [=](int64_t i) {
            put_many(dx + i, load_many(dy + i) * by_dy + (load_many(x + i) - center) * by_x + constant, large);
        },
        [=](int64_t i) { store(dx + i, load(dy[i]) * by_dy + (load(x[i]) - center) * by_x + constant); });
}

inline float at(const float* values, int64_t i, float otherwise) { return values ? values[i] : otherwise; }

inline void put(float* values, int64_t i, float value) {
    if (values) values[i] = value;
}

// The rows are split into one part for each thread; `work(part, first row, last row)` computes one part.
template <class Work>
int64_t in_parts(int64_t rows, int64_t size, int64_t max_parts, Work work) {
    int64_t parts = rows * size > WORTH_THREADS ? std::min(rows, max_parts) : 1;
#pragma omp parallel for schedule(static) if (parts > 1)
    for (int64_t part = 0; part < parts; part++) {
        work(part, rows * part / parts, rows * (part + 1) / parts);
        fence();
    }
    return parts;
}

// The parameters' gradients, from P sums for the weight and P for the bias of each part.
inline void add_parts(const std::vector<double>& found, int64_t parts, int64_t P, float* dweight, float* dbias) {
    for (int64_t p = 0; p < P; p++) {
        double of_weight = 0, of_bias = 0;
        for (int64_t part = 0; part < parts; part++) {
            of_weight += found[2 * P * part + p];
            of_bias += found[2 * P * part + P + p];
        }
        put(dweight, p, float(of_weight));
        put(dbias, p, float(of_bias));
    }
}

// ---- channels ------------------------------------------------------------------------------------------------------

// The scale and shift of a channel, from its sums.
struct Forward {
    float center, scale, shift;

    Forward(const Moments& found, double eps, float weight, float bias) : center(float(found.mean)) {
        double by = weight / std::sqrt(found.var + eps);
        scale = float(by);
        shift = float(bias - (found.mean - center) * by);
    }
};

struct Backward {
    float by_dy, by_x, constant, dweight, dbias;

    Backward(const Sums& sums, double count, double var, double eps, double weight, bool given) {
        double r = 1 / std::sqrt(var + eps), rest = given ? 0 : sums.x / count, through = sums.dyx - rest * sums.dy;
        double by = given ? 0 : -weight * r * r * r * through / count;
        by_dy = float(weight * r);
        by_x = float(by);
        constant = given ? 0 : float(-weight * r * sums.dy / count - rest * by);
        dweight = float(through * r);
        dbias = float(sums.dy);
    }
};

// Short runs: several channels are read together, as the columns of a matrix (N, C * S), so that each row of a pass is
// long enough for the processor to prefetch.
constexpr int64_t SHORT = 256;    // values of a run
constexpr int64_t STRETCH = 512;  // values of a row that is read together

// `work(first channel, last channel)` for each group of channels.
template <class Work>
void for_groups_of_channels(int64_t N, int64_t C, int64_t S, Work work) {
    int64_t group = std::max<int64_t>(1, STRETCH / S), groups = (C + group - 1) / group;
#pragma omp parallel for schedule(static) if (N * C * S > WORTH_THREADS)
    for (int64_t k = 0; k < groups; k++) work(k * group, std::min(C, (k + 1) * group));
}

// NUM sums for each of `width` columns of a matrix. `add(row)` adds a row to `block`, and the block's sums are added in
// double after every few rows.
template <int NUM, class Add>
void sum_columns(int64_t rows, int64_t width, double* into, float* block, Add add) {
    std::fill(into, into + NUM * width, 0.0);
    for (int64_t start = 0; start < rows; start += BLOCK) {
        std::fill(block, block + NUM * width, 0.0f);
        for (int64_t n = start; n < std::min(rows, start + BLOCK); n++) add(n);
#pragma omp simd
        for (int64_t j = 0; j < NUM * width; j++) into[j] += block[j];
    }
}

// The sum over the S columns of channel c.
inline double fold(const double* columns, int64_t c, int64_t S) {
    double sum = 0;
    for (int64_t s = 0; s < S; s++) sum += columns[c * S + s];
    return sum;
}

template <class T>
void short_channels_forward(const T* x, T* y, const float* weight, const float* bias, float* mean, float* var,
                            int64_t N, int64_t C, int64_t S, double eps, bool given) {
    for_groups_of_channels(N, C, S, [=](int64_t first, int64_t last) {
        int64_t width = (last - first) * S, stride = C * S;
        const T* from = x + first * S;
        T* to = y + first * S;
        std::vector<double> sums(2 * width);
        std::vector<float> floats(5 * width);
        float *block = floats.data(), *center = block + 2 * width, *scale = center + width, *shift = scale + width;
        double count = double(N) * double(S);
        if (!given) {
            sum_columns<1>(N, width, sums.data(), block, [=](int64_t n) {
#pragma omp simd
                for (int64_t j = 0; j < width; j++) block[j] += load(from[n * stride + j]);
            });
            for (int64_t c = 0; c < last - first; c++) {
                mean[first + c] = float(fold(sums.data(), c, S) / count);
                std::fill_n(center + c * S, S, mean[first + c]);
            }
            sum_columns<2>(N, width, sums.data(), block, [=](int64_t n) {
#pragma omp simd
                for (int64_t j = 0; j < width; j++) {
                    float deviation = load(from[n * stride + j]) - center[j];
                    block[j] += deviation;
                    block[width + j] += deviation * deviation;
                }
            });
        }
        for (int64_t c = 0; c < last - first; c++) {
            Moments found{mean[first + c], var[first + c]};
            if (!given) {
                double rest = fold(sums.data(), c, S) / count;
                found = {mean[first + c] + rest, fold(sums.data() + width, c, S) / count - rest * rest};
                mean[first + c] = float(found.mean);
                var[first + c] = float(found.var);
            }
            Forward by(found, eps, at(weight, first + c, 1), at(bias, first + c, 0));
            std::fill_n(center + c * S, S, by.center);
            std::fill_n(scale + c * S, S, by.scale);
            std::fill_n(shift + c * S, S, by.shift);
        }
        for (int64_t n = 0; n < N; n++)
#pragma omp simd
            for (int64_t j = 0; j < width; j++)
                store(to + n * stride + j, (load(from[n * stride + j]) - center[j]) * scale[j] + shift[j]);
    });
}

template <class T>
void short_channels_backward(const T* dy, const T* x, T* dx, const float* weight, const float* mean, const float* var,
                             float* dweight, float* dbias, int64_t N, int64_t C, int64_t S, double eps, bool given) {
    for_groups_of_channels(N, C, S, [=](int64_t first, int64_t last) {
        int64_t width = (last - first) * S, stride = C * S;
        const T *g = dy + first * S, *from = x + first * S;
        std::vector<double> sums(3 * width);
        std::vector<float> floats(7 * width);
        float *block = floats.data(), *center = block + 3 * width, *by_dy = center + width, *by_x = by_dy + width,
              *constant = by_x + width;
        for (int64_t c = 0; c < last - first; c++) std::fill_n(center + c * S, S, mean[first + c]);
        sum_columns<3>(N, width, sums.data(), block, [=](int64_t n) {
#pragma omp simd
            for (int64_t j = 0; j < width; j++) {
                float gj = load(g[n * stride + j]), deviation = load(from[n * stride + j]) - center[j];
                block[j] += gj;
                block[width + j] += gj * deviation;
                block[2 * width + j] += deviation;
            }
        });
        for (int64_t c = 0; c < last - first; c++) {
            Sums found{fold(sums.data(), c, S), fold(sums.data() + width, c, S), fold(sums.data() + 2 * width, c, S)};
            Backward by(found, double(N) * double(S), var[first + c], eps, at(weight, first + c, 1), given);
            put(dweight, first + c, by.dweight);
            put(dbias, first + c, by.dbias);
            std::fill_n(by_dy + c * S, S, by.by_dy);
            std::fill_n(by_x + c * S, S, by.by_x);
            std::fill_n(constant + c * S, S, by.constant);
        }
        if (!dx) return;
        T* to = dx + first * S;
        for (int64_t n = 0; n < N; n++)
#pragma omp simd
            for (int64_t j = 0; j < width; j++)
                store(to + n * stride + j, load(g[n * stride + j]) * by_dy[j] +
                                               (load(from[n * stride + j]) - center[j]) * by_x[j] + constant[j]);
    });
}

template <class T>
void channels_forward(const T* x, T* y, const float* weight, const float* bias, float* mean, float* var, int64_t N,
                      int64_t C, int64_t S, double eps, bool given, int64_t threads) {
    if (S < SHORT) return short_channels_forward(x, y, weight, bias, mean, var, N, C, S, eps, given);
    bool large = is_large(y, N * C * S, S);
    in_parts(C, N * S, threads, [=](int64_t, int64_t first, int64_t last) {
        for (int64_t c = first; c < last; c++) {
            Moments found = given ? Moments{mean[c], var[c]} : moments(x + c * S, N, C * S, S, false);
            if (!given) {
                mean[c] = float(found.mean);
                var[c] = float(found.var);
            }
            Forward by(found, eps, at(weight, c, 1), at(bias, c, 0));
            for (int64_t n = 0; n < N; n++) {
                int64_t start = (n * C + c) * S;
                scale_and_shift(x + start, y + start, S, by.center, by.scale, by.shift, large);
            }
        }
    });
}

template <class T>
void channels_backward(const T* dy, const T* x, T* dx, const float* weight, const float* mean, const float* var,
                       float* dweight, float* dbias, int64_t N, int64_t C, int64_t S, double eps, bool given,
                       int64_t threads) {
    if (S < SHORT)
        return short_channels_backward(dy, x, dx, weight, mean, var, dweight, dbias, N, C, S, eps, given);
    bool large = is_large(dx, N * C * S, S);
    in_parts(C, N * S, threads, [=](int64_t, int64_t first, int64_t last) {
        for (int64_t c = first; c < last; c++) {
            Sums sums = backward_sums(dy + c * S, x + c * S, N, C * S, S, mean[c]);
            Backward by(sums, double(N) * double(S), var[c], eps, at(weight, c, 1), given);
            put(dweight, c, by.dweight);
            put(dbias, c, by.dbias);
            if (!dx) continue;
            for (int64_t n = 0; n < N; n++) {
                int64_t start = (n * C + c) * S;
                backward_run(dy + start, x + start, dx + start, S, mean[c], by.by_dy, by.by_x, by.constant, large);
            }
        }
    });
}

// ---- columns -------------------------------------------------------------------------------------------------------

constexpr int64_t COLUMN_BLOCK = 8192;  // values of a block of rows, which fits into the first-level cache

// Mean and sum of squared deviations of each column, over rows; blocks are merged by Chan's formula.
template <class T>
void column_moments(const T* x, int64_t rows, int64_t C, double* mean, double* squares) {
    std::vector<float> block(3 * C);
    float *center = block.data(), *first = center + C, *second = first + C;
    int64_t step = std::max<int64_t>(1, COLUMN_BLOCK / C), seen = 0;
    std::fill(mean, mean + 2 * C, 0.0);
    for (int64_t start = 0; start < rows; start += step) {
        int64_t count = std::min(step, rows - start);
        std::fill(first, first + 2 * C, 0.0f);
        const T* from = x + start * C;
        for (int64_t i = 0; i < count; i++)
#pragma omp simd
            for (int64_t c = 0; c < C; c++) first[c] += load(from[i * C + c]);
#pragma omp simd
        for (int64_t c = 0; c < C; c++) {
            center[c] = first[c] / float(count);
            first[c] = 0;
        }
        for (int64_t i = 0; i < count; i++)
#pragma omp simd
            for (int64_t c = 0; c < C; c++) {
                float deviation = load(from[i * C + c]) - center[c];
                first[c] += deviation;
                second[c] += deviation * deviation;
            }
        double n = double(count), total = double(seen + count), share = n / total, both = double(seen) * share;
#pragma omp simd
        for (int64_t c = 0; c < C; c++) {
            double rest = first[c] / n, delta = center[c] + rest - mean[c];
            mean[c] += delta * share;
            squares[c] += second[c] - rest * first[c] + delta * delta * both;
        }
        seen += count;
    }
}

// The sums of a backward pass, for each column: C of dy, then of dy * (x - center), then of x - center.
template <class T>
void column_sums(const T* dy, const T* x, int64_t rows, int64_t C, const float* center, double* sums) {
    int64_t step = std::max<int64_t>(1, COLUMN_BLOCK / C);
    std::vector<float> block(3 * C);
    float *sum_dy = block.data(), *sum_dyx = sum_dy + C, *sum_x = sum_dyx + C;
    for (int64_t start = 0; start < rows; start += step) {
        std::fill(block.begin(), block.end(), 0.0f);
        for (int64_t i = start; i < std::min(rows, start + step); i++)
#pragma omp simd
            for (int64_t c = 0; c < C; c++) {
                float g = load(dy[i * C + c]), deviation = load(x[i * C + c]) - center[c];
                sum_dy[c] += g;
                sum_dyx[c] += g * deviation;
                sum_x[c] += deviation;
            }
#pragma omp simd
        for (int64_t c = 0; c < 3 * C; c++) sums[c] += block[c];
    }
}

// y = (x - center) * scale + shift, each a row of C.
template <class T>
void scale_columns(const T* x, T* y, int64_t rows, int64_t C, const float* center, const float* scale,
                   const float* shift, bool large) {
    for (int64_t i = 0; i < rows * C; i += C)
        each(
            C,
            [=](int64_t c) {
                floats deviation = load_many(x + i + c) - load_many(center + c);
                put_many(y + i + c, deviation * load_many(scale + c) + load_many(shift + c), large);
            },
            [=](int64_t c) { store(y + i + c, (load(x[i + c]) - center[c]) * scale[c] + shift[c]); });
}

// dx = dy * by_dy + (x - center) * by_x + constant, each a row of C.
template <class T>
void backward_columns(const T* dy, const T* x, T* dx, int64_t rows, int64_t C, const float* center, const float* by_dy,
                      const float* by_x, const float* constant, bool large) {
    for (int64_t i = 0; i < rows * C; i += C)
        each(
            C,
            [=](int64_t c) {
                floats deviation = load_many(x + i + c) - load_many(center + c);
                floats found = load_many(dy + i + c) * load_many(by_dy + c) + deviation * load_many(by_x + c);
                put_many(dx + i + c, found + load_many(constant + c), large);
            },
            [=](int64_t c) {
                store(dx + i + c, load(dy[i + c]) * by_dy[c] + (load(x[i + c]) - center[c]) * by_x[c] + constant[c]);
            });
}

template <class T>
void columns_forward(const T* x, T* y, const float* weight, const float* bias, float* mean, float* var, int64_t M,
                     int64_t C, double eps, bool given, int64_t threads) {
    bool large = is_large(y, M * C, C);
    std::vector<float> coefficients(3 * C);
    float *center = coefficients.data(), *scale = center + C, *shift = scale + C;
    std::vector<double> found(2 * C * threads);
    if (!given) {
        int64_t parts = in_parts(M, C, threads, [&](int64_t part, int64_t first, int64_t last) {
            double* own = found.data() + 2 * C * part;
            column_moments(x + first * C, last - first, C, own, own + C);
        });
        double* total = found.data();
        for (int64_t part = 1; part < parts; part++) {
            double* own = found.data() + 2 * C * part;
            double before = double(M * part / parts), n = double(M * (part + 1) / parts) - before;
            for (int64_t c = 0; c < C; c++) {
                double delta = own[c] - total[c];
                total[c] += delta * n / (before + n);
                total[C + c] += own[C + c] + delta * delta * before * n / (before + n);
            }
        }
    }
    for (int64_t c = 0; c < C; c++) {
        Moments exact = given ? Moments{mean[c], var[c]} : Moments{found[c], found[C + c] / double(M)};
        if (!given) {
            mean[c] = float(exact.mean);
            var[c] = float(exact.var);
        }
        Forward by(exact, eps, at(weight, c, 1), at(bias, c, 0));
        center[c] = by.center;
        scale[c] = by.scale;
        shift[c] = by.shift;
    }
    in_parts(M, C, threads, [&](int64_t, int64_t first, int64_t last) {
        scale_columns(x + first * C, y + first * C, last - first, C, center, scale, shift, large);
    });
}

template <class T>
void columns_backward(const T* dy, const T* x, T* dx, const float* weight, const float* mean, const float* var,
                      float* dweight, float* dbias, int64_t M, int64_t C, double eps, bool given, int64_t threads) {
    std::vector<double> found(3 * C * threads);
    int64_t parts = in_parts(M, C, threads, [&](int64_t part, int64_t first, int64_t last) {
        column_sums(dy + first * C, x + first * C, last - first, C, mean, found.data() + 3 * C * part);
    });
    std::vector<float> coefficients(3 * C);
    float *by_dy = coefficients.data(), *by_x = by_dy + C, *constant = by_x + C;
    for (int64_t c = 0; c < C; c++) {
        for (int64_t part = 1; part < parts; part++)
            for (int64_t k = 0; k < 3; k++) found[k * C + c] += found[3 * C * part + k * C + c];
        Sums sums{found[c], found[C + c], found[2 * C + c]};
        Backward by(sums, double(M), var[c], eps, at(weight, c, 1), given);
        put(dweight, c, by.dweight);
        put(dbias, c, by.dbias);
        by_dy[c] = by.by_dy;
        by_x[c] = by.by_x;
        constant[c] = by.constant;
    }
    if (!dx) return;
    bool large = is_large(dx, M * C, C);
    in_parts(M, C, threads, [&](int64_t, int64_t first, int64_t last) {
        int64_t at = first * C;
        backward_columns(dy + at, x + at, dx + at, last - first, C, mean, by_dy, by_x, constant, large);
    });
}

// ---- groups --------------------------------------------------------------------------------------------------------

template <class T>
void groups_forward(const T* x, T* y, const float* weight, const float* bias, float* mean, float* var, int64_t N,
                    int64_t S, int64_t G, int64_t K, double eps, int64_t threads) {
    int64_t C = G * K;
    bool large = is_large(y, N * S * C, C);
    in_parts(N, S * C, threads, [=](int64_t, int64_t first, int64_t last) {
        std::vector<double> found(2 * C);
        std::vector<float> coefficients(3 * C);
        double *means = found.data(), *squares = means + C;
        float *center = coefficients.data(), *scale = center + C, *shift = scale + C;
        for (int64_t n = first; n < last; n++) {
            column_moments(x + n * S * C, S, C, means, squares);
            for (int64_t g = 0; g < G; g++) {
                double middle = 0, sum = 0;
                for (int64_t c = g * K; c < (g + 1) * K; c++) middle += means[c] / double(K);
                for (int64_t c = g * K; c < (g + 1) * K; c++) {
                    double delta = means[c] - middle;
                    sum += squares[c] + delta * delta * double(S);
                }
                Moments exact{middle, sum / double(S * K)};
                mean[n * G + g] = float(exact.mean);
                var[n * G + g] = float(exact.var);
                for (int64_t c = g * K; c < (g + 1) * K; c++) {
                    Forward by(exact, eps, at(weight, c, 1), at(bias, c, 0));
                    center[c] = by.center;
                    scale[c] = by.scale;
                    shift[c] = by.shift;
                }
            }
            scale_columns(x + n * S * C, y + n * S * C, S, C, center, scale, shift, large);
        }
    });
}

template <class T>
void groups_backward(const T* dy, const T* x, T* dx, const float* weight, const float* mean, const float* var,
                     float* dweight, float* dbias, int64_t N, int64_t S, int64_t G, int64_t K, double eps,
                     int64_t threads) {
    int64_t C = G * K;
    bool large = is_large(dx, N * S * C, C);
    std::vector<double> found(2 * C * threads);
    int64_t parts = in_parts(N, S * C, threads, [&](int64_t part, int64_t first, int64_t last) {
        double *own_weight = found.data() + 2 * C * part, *own_bias = own_weight + C;
        std::vector<double> sums(3 * C);
        std::vector<float> coefficients(4 * C);
        float *center = coefficients.data(), *by_dy = center + C, *by_x = by_dy + C, *constant = by_x + C;
        for (int64_t n = first; n < last; n++) {
            for (int64_t c = 0; c < C; c++) center[c] = mean[n * G + c / K];
            std::fill(sums.begin(), sums.end(), 0.0);
            column_sums(dy + n * S * C, x + n * S * C, S, C, center, sums.data());
            for (int64_t g = 0; g < G; g++) {
                double sum_g = 0, sum_gx = 0, rest = 0, count = double(S * K);
                for (int64_t c = g * K; c < (g + 1) * K; c++) {
                    sum_g += sums[c] * at(weight, c, 1);
                    sum_gx += sums[C + c] * at(weight, c, 1);
                    rest += sums[2 * C + c] / count;
                }
                double r = 1 / std::sqrt(double(var[n * G + g]) + eps);
                double by = -r * r * r * (sum_gx - rest * sum_g) / count;
                for (int64_t c = g * K; c < (g + 1) * K; c++) {
                    by_dy[c] = float(r * at(weight, c, 1));
                    by_x[c] = float(by);
                    constant[c] = float(-r * sum_g / count - rest * by);
                    own_weight[c] += (sums[C + c] - rest * sums[c]) * r;
                    own_bias[c] += sums[c];
                }
            }
            if (!dx) continue;
            int64_t at = n * S * C;
            backward_columns(dy + at, x + at, dx + at, S, C, center, by_dy, by_x, constant, large);
        }
    });
    add_parts(found, parts, C, dweight, dbias);
}

// ---- runs ----------------------------------------------------------------------------------------------------------

template <class T>
void runs_forward(const T* x, T* y, const float* weight, const float* bias, float* mean, float* var, int64_t R,
                  int64_t K, int64_t S, int64_t G, double eps, bool about_zero, int64_t threads) {
    bool large = is_large(y, R * K * S, S == 1 ? K : S);
    in_parts(R, K * S, threads, [=](int64_t, int64_t first, int64_t last) {
        for (int64_t row = first; row < last; row++) {
            const T* from = x + row * K * S;
            T* to = y + row * K * S;
            Moments found = moments(from, 1, 0, K * S, about_zero);
            if (!about_zero) mean[row] = float(found.mean);
            var[row] = float(found.var);
            float center = float(found.mean);
            double scale = 1 / std::sqrt(found.var + eps), shift = -(found.mean - center) * scale;
            const float* w = weight ? weight + row % G * K : nullptr;
            const float* b = bias ? bias + row % G * K : nullptr;
            if (S == 1) {
                float by = float(scale), off = float(shift);
                if (w && b) {
                    each(
                        K,
                        [=](int64_t k) {
                            floats z = (load_many(from + k) - center) * by + off;
                            put_many(to + k, z * load_many(w + k) + load_many(b + k), large);
                        },
                        [=](int64_t k) { store(to + k, ((load(from[k]) - center) * by + off) * w[k] + b[k]); });
                } else if (w) {
                    each(
                        K,
                        [=](int64_t k) {
                            put_many(to + k, ((load_many(from + k) - center) * by + off) * load_many(w + k), large);
                        },
                        [=](int64_t k) { store(to + k, ((load(from[k]) - center) * by + off) * w[k]); });
                } else {
                    scale_and_shift(from, to, K, center, by, off, large);
                    if (b)
                        for (int64_t k = 0; k < K; k++) store(to + k, load(to[k]) + b[k]);
                }
            } else {
                for (int64_t k = 0; k < K; k++)
                    scale_and_shift(from + k * S, to + k * S, S, center, float(scale * at(w, k, 1)),
                                    float(shift * at(w, k, 1) + at(b, k, 0)), large);
            }
        }
    });
}

// `backward_sums` of one run of dy * weight.
template <class T>
Sums weighted_sums(const T* dy, const T* x, const float* weight, int64_t size, float center) {
    double sums[3] = {};
    sum_runs<3>(
        1, 0, size, sums,
        [&](floats* sums, int64_t i) {
            floats g = load_many(dy + i) * load_many(weight + i), deviation = load_many(x + i) - center;
            sums[0] += g;
            sums[1] += g * deviation;
            sums[2] += deviation;
        },
        [&](double* sums, int64_t i) {
            float g = load(dy[i]) * weight[i], deviation = load(x[i]) - center;
            sums[0] += g;
            sums[1] += double(g) * deviation;
            sums[2] += deviation;
        });
    return Sums{sums[0], sums[1], sums[2]};
}

constexpr int64_t ROWS_IN_FLOAT = 64;  // rows whose part of a weight's gradient is summed in float

template <class T>
void runs_backward(const T* dy, const T* x, T* dx, const float* weight, const float* mean, const float* var,
                   float* dweight, float* dbias, int64_t R, int64_t K, int64_t S, int64_t G, double eps,
                   bool about_zero, int64_t threads) {
    int64_t P = G * K;  // parameters
    bool large = is_large(dx, R * K * S, S == 1 ? K : S);
    std::vector<double> found(2 * P * threads);
    int64_t parts = in_parts(R, K * S, threads, [&](int64_t part, int64_t first, int64_t last) {
        double *own_weight = found.data() + 2 * P * part, *own_bias = own_weight + P;
        std::vector<float> block(S == 1 ? 2 * P : 0);
        std::vector<Sums> sums(S == 1 ? 0 : K);
        float *block_weight = block.data(), *block_bias = block_weight + P;
        for (int64_t row = first; row < last; row++) {
            const T *g = dy + row * K * S, *from = x + row * K * S;
            float center = about_zero ? 0 : mean[row];
            double share = 1 / double(K * S), r = 1 / std::sqrt(double(var[row]) + eps);
            const float* w = weight ? weight + row % G * K : nullptr;
            double sum_g = 0, sum_gx = 0, sum_x = 0;
            if (S == 1) {
                Sums found = w ? weighted_sums(g, from, w, K, center) : backward_sums(g, from, 1, 0, K, center);
                sum_g = found.dy, sum_gx = found.dyx, sum_x = found.x;
            } else {
                for (int64_t k = 0; k < K; k++) {
                    sums[k] = backward_sums(g + k * S, from + k * S, 1, 0, S, center);
                    sum_g += sums[k].dy * at(w, k, 1);
                    sum_gx += sums[k].dyx * at(w, k, 1);
                    sum_x += sums[k].x;
                }
                double rest = about_zero ? 0 : sum_x * share;
                for (int64_t k = 0; k < K; k++) {
                    own_weight[row % G * K + k] += (sums[k].dyx - rest * sums[k].dy) * r;
                    own_bias[row % G * K + k] += sums[k].dy;
                }
            }
            double rest = about_zero ? 0 : sum_x * share;
            double by_x = -r * r * r * (sum_gx - rest * sum_g) * share;
            double mean_g = about_zero ? 0 : sum_g * share;
            if (S == 1) {
                // The mean of g is subtracted before r scales the difference, which can be 0 in a row of few values.
                float by = float(by_x), scale = float(r), minus = float(mean_g), off = float(-rest * by_x),
                      shift = float(-rest * r);
                float *to_weight = block_weight + row % G * K, *to_bias = block_bias + row % G * K;
                T* to = dx ? dx + row * K : nullptr;
                each(
                    K,
                    [=](int64_t k) {
                        floats gk = load_many(g + k), deviation = load_many(from + k) - center;
                        floats weighted = w ? gk * load_many(w + k) : gk;
                        if (to) put_many(to + k, (weighted - minus) * scale + deviation * by + off, large);
                        store_many(to_weight + k, load_many(to_weight + k) + gk * (deviation * scale + shift));
                        store_many(to_bias + k, load_many(to_bias + k) + gk);
                    },
                    [=](int64_t k) {
                        float gk = load(g[k]), deviation = load(from[k]) - center;
                        if (to) store(to + k, (gk * (w ? w[k] : 1) - minus) * scale + deviation * by + off);
                        to_weight[k] += gk * (deviation * scale + shift);
                        to_bias[k] += gk;
                    });
                if ((row - first) % (ROWS_IN_FLOAT * G) == ROWS_IN_FLOAT * G - 1 || row == last - 1) {
#pragma omp simd
                    for (int64_t p = 0; p < 2 * P; p++) {
                        own_weight[p] += block[p];
                        block[p] = 0;
                    }
                }
            } else if (dx) {
                T* to = dx + row * K * S;
                for (int64_t k = 0; k < K; k++)
                    backward_run(g + k * S, from + k * S, to + k * S, S, center, float(r * at(w, k, 1)), float(by_x),
                                 float(-r * mean_g - rest * by_x), large);
            }
        }
    });
    add_parts(found, parts, P, dweight, dbias);
}

}  // namespace

extern "C" void follow(float* running_mean, float* running_var, const float* mean, const float* var, int64_t C,
                       double factor, double unbias) {
    for (int64_t c = 0; c < C; c++) {
        running_mean[c] += float(factor) * (mean[c] - running_mean[c]);
        running_var[c] += float(factor) * (var[c] * float(unbias) - running_var[c]);
    }
}

#define EXPORT(NAME, T)                                                                                               \
    extern "C" void channels_forward_##NAME(const T* x, T* y, const float* weight, const float* bias, float* mean,    \
                                            float* var, int64_t N, int64_t C, int64_t S, double eps, int given,       \
                                            int64_t threads) {                                                        \
        channels_forward(x, y, weight, bias, mean, var, N, C, S, eps, given, threads);                                \
    }                                                                                                                 \
    extern "C" void channels_backward_##NAME(const T* dy, const T* x, T* dx, const float* weight, const float* mean,  \
                                             const float* var, float* dweight, float* dbias, int64_t N, int64_t C,    \
                                             int64_t S, double eps, int given, int64_t threads) {                     \
        channels_backward(dy, x, dx, weight, mean, var, dweight, dbias, N, C, S, eps, given, threads);                \
    }                                                                                                                 \
    extern "C" void columns_forward_##NAME(const T* x, T* y, const float* weight, const float* bias, float* mean,     \
                                           float* var, int64_t M, int64_t C, double eps, int given,                   \
                                           int64_t threads) {                                                         \
        columns_forward(x, y, weight, bias, mean, var, M, C, eps, given, threads);                                    \
    }                                                                                                                 \
    extern "C" void columns_backward_##NAME(const T* dy, const T* x, T* dx, const float* weight, const float* mean,   \
                                            const float* var, float* dweight, float* dbias, int64_t M, int64_t C,     \
                                            double eps, int given, int64_t threads) {                                 \
        columns_backward(dy, x, dx, weight, mean, var, dweight, dbias, M, C, eps, given, threads);                    \
    }                                                                                                                 \
    extern "C" void groups_forward_##NAME(const T* x, T* y, const float* weight, const float* bias, float* mean,       \
                                          float* var, int64_t N, int64_t S, int64_t G, int64_t K, double eps, int,     \
                                          int64_t threads) {                                                           \
        groups_forward(x, y, weight, bias, mean, var, N, S, G, K, eps, threads);                                       \
    }                                                                                                                  \
    extern "C" void groups_backward_##NAME(const T* dy, const T* x, T* dx, const float* weight, const float* mean,     \
                                           const float* var, float* dweight, float* dbias, int64_t N, int64_t S,       \
                                           int64_t G, int64_t K, double eps, int, int64_t threads) {                   \
        groups_backward(dy, x, dx, weight, mean, var, dweight, dbias, N, S, G, K, eps, threads);                       \
    }                                                                                                                  \
    extern "C" void runs_forward_##NAME(const T* x, T* y, const float* weight, const float* bias, float* mean,        \
                                        float* var, int64_t R, int64_t K, int64_t S, int64_t G, double eps,           \
                                        int about_zero, int64_t threads) {                                            \
        runs_forward(x, y, weight, bias, mean, var, R, K, S, G, eps, about_zero, threads);                            \
    }                                                                                                                 \
    extern "C" void runs_backward_##NAME(const T* dy, const T* x, T* dx, const float* weight, const float* mean,      \
                                         const float* var, float* dweight, float* dbias, int64_t R, int64_t K,        \
                                         int64_t S, int64_t G, double eps, int about_zero, int64_t threads) {         \
        runs_backward(dy, x, dx, weight, mean, var, dweight, dbias, R, K, S, G, eps, about_zero, threads);            \
    }

EXPORT(float32, float)
EXPORT(bfloat16, bfloat16)
