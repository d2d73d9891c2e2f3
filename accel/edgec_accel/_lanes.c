/* The lanes of edgec's tensor deltas: the same bytes as the numpy twin in
 * edgec_bundle.delta.tensor (lanes.py, encoding.py, decoding.py, tables.py), which explains them.
 *
 * Every number that comes in may be a stranger's: all reads are within bounds, all arithmetic
 * within 64 bits, and the work is proportional to the element count. Floating point is used one
 * IEEE operation at a time; compile without contraction.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "only little-endian machines"
#endif

enum { SYMBOLS = 64, CENTRE = 32, LIMIT = 31, LEVELS = 20, BUCKETS = 3 };
enum { CONTEXTS = LEVELS * BUCKETS, TAPS = 8, MAX_LANES = 256 };
enum { PRIOR = 24 * 32, INCREMENT = 32, MOST = 4096 * 32, BLOCK_SYMBOLS = 512 };
enum { FRACTION_BITS = 8, ACTIVITY_BITS = 8, TOP_LEVEL = 5, LOW_LEVEL = TOP_LEVEL + 1 - LEVELS };
enum { MAX_SHIFT = 31, LENGTH_BITS = 6, MAX_ESCAPE_BITS = 32, STATE_BYTES = 5 };
enum { MASK_KIND = 8 }; /* other kinds are the numbers of DTYPES */

#define LOWEST ((uint64_t)1 << 24)
#define MAX_FIXED ((int64_t)1 << 40)
#define MAX_ACTIVITY ((int64_t)1 << 48)

/* ---------------------------------------------------------------- tables */

typedef struct {
    int64_t counts[CONTEXTS][SYMBOLS];
    uint32_t frequency[CONTEXTS][SYMBOLS];
    uint32_t below[CONTEXTS][SYMBOLS + 1];
    uint8_t touched[CONTEXTS];
} Tables;

static const int64_t RATIOS[LEVELS] = {304,   431,   609,   861,   1217,  1721,  2432,
                                       3435,  4844,  6814,  9536,  13217, 18012, 23892,
                                       30518, 37278, 43539, 48887, 53191, 56514};

static void share(Tables *t, int c) {
    int64_t total = 0, sum = 0;
    for (int s = 0; s < SYMBOLS; s++) total += t->counts[c][s];
    for (int s = 0; s < SYMBOLS; s++) {
        uint64_t scaled = (uint64_t)t->counts[c][s] * (65536 - SYMBOLS);
        t->frequency[c][s] = (uint32_t)(1 + scaled / (uint64_t)total);
        sum += t->frequency[c][s];
    }
    t->frequency[c][CENTRE] += (uint32_t)(65536 - sum);
    uint32_t below = 0;
    for (int s = 0; s < SYMBOLS; s++) {
        t->below[c][s] = below;
        below += t->frequency[c][s];
    }
    t->below[c][SYMBOLS] = below;
}

static void start_tables(Tables *t, int is_static) {
    memset(t, 0, sizeof *t);
    for (int c = 0; c < CONTEXTS; c++) {
        if (is_static) { /* a mask: alive or zero alike, the other sign seldom */
            t->counts[c][CENTRE] = t->counts[c][CENTRE + 1] = 2 * INCREMENT;
            t->counts[c][CENTRE + 2] = INCREMENT >> 2;
            share(t, c);
            continue;
        }
        int64_t ratio = RATIOS[c / BUCKETS];
        int64_t size = (int64_t)((uint64_t)(65536 - ratio) * ((uint64_t)1 << 32) /
                                 (uint64_t)(65536 + ratio));
        for (int h = 0; h < CENTRE; h++) {
            int64_t count = (int64_t)((uint64_t)size * PRIOR >> 32);
            t->counts[c][CENTRE + h] = count;
            if (h) t->counts[c][CENTRE - h] = count;
            size = size * ratio >> 16;
        }
        share(t, c);
    }
}

static void change_tables(Tables *t) {
    for (int c = 0; c < CONTEXTS; c++) {
        if (!t->touched[c]) continue;
        int64_t total = 0;
        for (int s = 0; s < SYMBOLS; s++) total += t->counts[c][s];
        if (total > MOST)
            for (int s = 0; s < SYMBOLS; s++) t->counts[c][s] -= t->counts[c][s] >> 1;
        share(t, c);
        t->touched[c] = 0;
    }
}

static inline void count(Tables *t, int context, int symbol) {
    t->counts[context][symbol] += INCREMENT;
    t->touched[context] = 1;
}

/* ---------------------------------------------------------------- numbers */

static const int KIND_BITS[] = {8, 8, 4, 16, 32, 16, 32, 16};
static const int KIND_MANTISSA[] = {0, 0, 0, 0, 0, 10, 23, 7};
static const int KIND_BIAS[] = {0, 0, 0, 0, 0, 15, 127, 127};

static inline int64_t wrapped(int64_t value, int bits) {
    uint64_t half = (uint64_t)1 << (bits - 1);
    return (int64_t)((((uint64_t)value + half) & (((uint64_t)1 << bits) - 1)) - half);
}

static inline int64_t ranked(int64_t word, int bits) {
    return word < 0 ? ~(word & (((int64_t)1 << (bits - 1)) - 1)) : word;
}

static inline float float_of_bits(uint32_t word) {
    float value;
    memcpy(&value, &word, 4);
    return value;
}

static inline uint32_t bits_of_float(float value) {
    uint32_t word;
    memcpy(&word, &value, 4);
    return word;
}

static float half_value(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31;
    uint32_t mantissa = half & 0x3ff;
    if (exponent == 31) return float_of_bits(sign | 0x7f800000 | mantissa << 13);
    if (exponent == 0) {
        float value = (float)mantissa * 5.9604644775390625e-08f; /* 2**-24, exact */
        return sign ? -value : value;
    }
    return float_of_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

static uint16_t half_bits(float value) { /* to nearest, ties to even; never given a NaN */
    uint32_t word = bits_of_float(value), sign = word >> 16 & 0x8000;
    uint32_t size = word & 0x7fffffff;
    if (size >= 0x47800000) return (uint16_t)(sign | 0x7c00);
    if (size < 0x33000000) return (uint16_t)sign;
    if (size < 0x38800000) { /* subnormal: in steps of 2**-24 */
        uint32_t shift = 126 - (size >> 23), mantissa = (size & 0x7fffff) | 0x800000;
        uint32_t whole = mantissa >> shift, rest = mantissa & ((1u << shift) - 1);
        uint32_t tie = 1u << (shift - 1);
        whole += rest > tie || (rest == tie && (whole & 1));
        return (uint16_t)(sign | whole);
    }
    size -= 112u << 23;
    size += 0xfff + (size >> 13 & 1);
    return (uint16_t)(sign | size >> 13);
}

static int64_t fixed_of(int64_t code, int kind, double power) {
    int bits = KIND_BITS[kind];
    int64_t word = ranked(code, bits);
    float value;
    if (kind == 5)
        value = half_value((uint16_t)word);
    else
        value = float_of_bits(kind == 7 ? (uint32_t)word << 16 : (uint32_t)word);
    double scaled = (double)value * power;
    if (scaled != scaled) return 0;
    if (scaled >= (double)MAX_FIXED) return MAX_FIXED;
    if (scaled <= -(double)MAX_FIXED) return -MAX_FIXED;
    return (int64_t)scaled;
}

static int64_t rounded(int64_t fixed, int kind, double inverse) {
    float value = (float)((double)fixed * inverse);
    if (kind == 5) return ranked((int16_t)half_bits(value), 16);
    uint32_t word = bits_of_float(value);
    if (kind == 6) return ranked((int32_t)word, 32);
    uint64_t more = (uint64_t)word + 0x7fff + (word >> 16 & 1);
    return ranked(wrapped((int64_t)(more >> 16), 16), 16);
}

static inline int ulp_exponent(int64_t code, int kind) {
    int64_t exponent = (code < 0 ? ~code : code) >> KIND_MANTISSA[kind];
    return (int)(exponent < 1 ? 1 : exponent) - KIND_BIAS[kind] - KIND_MANTISSA[kind];
}

/* ---------------------------------------------------------------- lanes */

typedef struct {
    int kind;
    int64_t count, lanes, segments, coefficient_rows;
    const int64_t *base, *reference, *reference_fixed, *coefficients;
    const int16_t *rows;
    const int64_t *starts, *activities, *exponents, *contexts;
} Lot;

typedef struct {
    int64_t start, segment, slow, fast, exponent, errors[TAPS];
    double power, inverse;
    /* of the current element */
    int64_t base, fixed, predicted, fraction, folded, high;
    int context, shift;
} Lane;

static int64_t segment_of(const Lot *lot, int64_t element) {
    int64_t low = 0, high = lot->segments; /* starts[0] is 0 */
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (lot->starts[middle] <= element) low = middle;
        else high = middle;
    }
    return low;
}

static void forget(const Lot *lot, Lane *lane) {
    int64_t code = lot->activities[lane->segment];
    lane->slow = lane->fast = (2 + (code & 1)) << (code >> 1);
    lane->exponent = lot->exponents[lane->segment];
    lane->power = ldexp(1.0, (int)lane->exponent);
    lane->inverse = ldexp(1.0, -(int)lane->exponent);
    memset(lane->errors, 0, sizeof lane->errors);
}

static void begin(const Lot *lot, Lane *lane, int64_t number) {
    int64_t share_ = lot->count / lot->lanes, rest = lot->count % lot->lanes;
    lane->start = number * share_ + (number < rest ? number : rest);
    if (lot->kind == MASK_KIND || lane->start >= lot->count) return;
    lane->segment = segment_of(lot, lane->start);
    forget(lot, lane);
}

/* Set what the lane expects of an element: context, shift and prediction. */
static void expect(const Lot *lot, Lane *lane, int64_t element) {
    if (lot->kind == MASK_KIND) {
        lane->context = (int)lot->contexts[element];
        lane->shift = 0;
        return;
    }
    if (lane->segment + 1 < lot->segments && lot->starts[lane->segment + 1] == element) {
        lane->segment++;
        forget(lot, lane);
    }
    int64_t correction = 0, scale = FRACTION_BITS, bucket = 0;
    if (lot->rows[element]) {
        const int64_t *weights = lot->coefficients + TAPS * lot->rows[element];
        for (int tap = 0; tap < TAPS; tap++) correction += weights[tap] * lane->errors[tap];
        correction >>= 6;
    }
    lane->base = lot->base[element];
    lane->fixed = lane->base + correction;
    if (KIND_MANTISSA[lot->kind]) {
        lane->predicted = lane->fixed == lot->reference_fixed[element]
                              ? lot->reference[element]
                              : rounded(lane->fixed, lot->kind, lane->inverse);
        lane->fraction = 0;
        scale = ulp_exponent(lane->predicted, lot->kind) + lane->exponent;
    } else {
        lane->predicted = (lane->fixed + (1 << (FRACTION_BITS - 1))) >> FRACTION_BITS;
        lane->fraction = lane->fixed - lane->predicted * (1 << FRACTION_BITS);
        int64_t size = lane->fraction < 0 ? -lane->fraction : lane->fraction;
        bucket = size * BUCKETS >> (FRACTION_BITS - 1);
        if (bucket > BUCKETS - 1) bucket = BUCKETS - 1;
    }
    int64_t activity = (3 * lane->slow + lane->fast) >> 2;
    int64_t level = (int64_t)(bits_of_float((float)(activity + 1)) >> 22) - 254;
    level -= 2 * (scale + ACTIVITY_BITS);
    int64_t shift = level - TOP_LEVEL + 1;
    shift = shift < 0 ? 0 : shift >> 1;
    if (shift > MAX_SHIFT) shift = MAX_SHIFT;
    level -= 2 * shift;
    if (level < LOW_LEVEL) level = LOW_LEVEL;
    if (level > TOP_LEVEL) level = TOP_LEVEL;
    lane->context = (int)((level - LOW_LEVEL) * BUCKETS + bucket);
    lane->shift = (int)shift;
}

static int64_t code_of(const Lot *lot, const Lane *lane) {
    if (lot->kind == MASK_KIND) return lane->high;
    int64_t error = lane->fraction < 0 ? -lane->folded : lane->folded;
    return wrapped(lane->predicted + error, KIND_BITS[lot->kind]);
}

static void remember(const Lot *lot, Lane *lane, int64_t code) {
    if (lot->kind == MASK_KIND) return;
    int64_t actual, size;
    if (KIND_MANTISSA[lot->kind]) {
        actual = fixed_of(code, lot->kind, lane->power);
        size = actual - lane->fixed;
        size = (size < 0 ? -size : size) << ACTIVITY_BITS;
    } else {
        actual = code * (1 << FRACTION_BITS);
        size = (lane->folded < 0 ? -lane->folded : lane->folded)
               << (FRACTION_BITS + ACTIVITY_BITS);
    }
    if (size > MAX_ACTIVITY) size = MAX_ACTIVITY;
    lane->slow += (size - lane->slow) >> 6;
    lane->fast += (size - lane->fast) >> 3;
    if (lot->coefficient_rows > 1) {
        memmove(lane->errors + 1, lane->errors, (TAPS - 1) * sizeof *lane->errors);
        lane->errors[0] = actual - lane->base;
    }
}

static inline int64_t active_lanes(const Lot *lot, int64_t step) {
    return step < lot->count / lot->lanes ? lot->lanes : lot->count % lot->lanes;
}

static inline int64_t block_steps(const Lot *lot) {
    return lot->lanes > BLOCK_SYMBOLS ? 1 : BLOCK_SYMBOLS / lot->lanes;
}

/* ---------------------------------------------------------------- decoding */

typedef struct {
    const uint8_t *data;
    uint64_t bits, at;
    int is_short;
} BitReader;

static int64_t read_bits(BitReader *reader, int width) {
    if (!width) return 0;
    if (reader->at + (uint64_t)width > reader->bits) {
        reader->is_short = 1;
        return 0;
    }
    uint64_t first = reader->at >> 3, bytes = reader->bits >> 3, window = 0;
    for (int byte = 0; byte < 6 && first + (uint64_t)byte < bytes; byte++)
        window |= (uint64_t)reader->data[first + (uint64_t)byte] << (8 * byte);
    window >>= reader->at & 7;
    reader->at += (uint64_t)width;
    return (int64_t)(window & (((uint64_t)1 << width) - 1));
}

static int symbol_at(const Tables *t, int context, uint32_t slot) {
    const uint32_t *below = t->below[context];
    int low = 0, high = SYMBOLS;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (below[middle] <= slot) low = middle;
        else high = middle;
    }
    return low;
}

static int decode_lot(const Lot *lot, Tables *t, Lane *lanes, const uint8_t *states_in,
                      const uint8_t *words, int64_t word_count, BitReader *bits, int64_t *out) {
    uint64_t states[MAX_LANES];
    int64_t word_at = 0, steps = (lot->count + lot->lanes - 1) / lot->lanes;
    for (int64_t l = 0; l < lot->lanes; l++) {
        states[l] = 0;
        for (int byte = 0; byte < STATE_BYTES; byte++)
            states[l] |= (uint64_t)states_in[STATE_BYTES * l + byte] << (8 * byte);
        if (states[l] < LOWEST) return 0;
        begin(lot, lanes + l, l);
    }
    start_tables(t, lot->kind == MASK_KIND);
    for (int64_t step = 0; step < steps; step++) {
        int64_t active = active_lanes(lot, step);
        int escapes = 0;
        for (int64_t l = 0; l < active; l++) {
            Lane *lane = lanes + l;
            expect(lot, lane, lane->start + step);
            uint32_t slot = (uint32_t)(states[l] & 0xffff);
            int symbol = symbol_at(t, lane->context, slot);
            uint64_t state = (uint64_t)t->frequency[lane->context][symbol] * (states[l] >> 16);
            state += slot - t->below[lane->context][symbol];
            if (state < LOWEST) {
                if (word_at == word_count) return 0;
                state = state << 16 | words[2 * word_at] | (uint64_t)words[2 * word_at + 1] << 8;
                word_at++;
            }
            states[l] = state;
            count(t, lane->context, symbol);
            lane->high = symbol - CENTRE;
            escapes |= lane->high <= -LIMIT || lane->high >= LIMIT;
            int64_t low = read_bits(bits, lane->shift);
            lane->folded = low - ((int64_t)1 << lane->shift >> 1);
        }
        for (int64_t l = 0; l < active; l++) {
            Lane *lane = lanes + l;
            if (escapes && lot->kind != MASK_KIND &&
                (lane->high <= -LIMIT || lane->high >= LIMIT)) {
                int64_t length = read_bits(bits, LENGTH_BITS);
                if (length > MAX_ESCAPE_BITS - lane->shift) length = MAX_ESCAPE_BITS - lane->shift;
                int64_t more = read_bits(bits, (int)length);
                lane->high += lane->high > 0 ? more : -more;
            }
            lane->folded += lane->high * ((int64_t)1 << lane->shift);
            int64_t code = code_of(lot, lane);
            out[lane->start + step] = code;
            remember(lot, lane, code);
        }
        if ((step + 1) % block_steps(lot) == 0) change_tables(t);
    }
    for (int64_t l = 0; l < lot->lanes; l++)
        if (states[l] != LOWEST) return 0;
    return word_at == word_count && !bits->is_short && bits->bits - bits->at < 8;
}

/* ---------------------------------------------------------------- encoding */

typedef struct {
    uint8_t *data;
    uint64_t at;
} BitWriter;

static void write_bits(BitWriter *writer, int64_t value, int width) {
    for (int done = 0; done < width;) {
        int room = 8 - (int)(writer->at & 7);
        int now = width - done < room ? width - done : room;
        uint8_t piece = (uint8_t)((uint64_t)value >> done & ((1u << now) - 1));
        writer->data[writer->at >> 3] |= (uint8_t)(piece << (writer->at & 7));
        writer->at += (uint64_t)now;
        done += now;
    }
}

static int bit_length(uint64_t value) {
    int length = 0;
    for (; value; value >>= 1) length++;
    return length;
}

typedef struct {
    uint32_t frequency, below;
} Share;

/* Fill `shares` in the order of coding, and the bits. */
static void model_lot(const Lot *lot, Tables *t, Lane *lanes, const int64_t *codes, Share *shares,
                      BitWriter *bits) {
    int64_t steps = (lot->count + lot->lanes - 1) / lot->lanes, at = 0;
    for (int64_t l = 0; l < lot->lanes; l++) begin(lot, lanes + l, l);
    start_tables(t, lot->kind == MASK_KIND);
    for (int64_t step = 0; step < steps; step++) {
        int64_t active = active_lanes(lot, step);
        for (int64_t l = 0; l < active; l++) {
            Lane *lane = lanes + l;
            int64_t code = codes[lane->start + step], symbol;
            expect(lot, lane, lane->start + step);
            if (lot->kind == MASK_KIND) {
                symbol = code;
                lane->high = 0;
            } else {
                int64_t error = wrapped(code - lane->predicted, KIND_BITS[lot->kind]);
                lane->folded = lane->fraction < 0 ? -error : error;
                int64_t moved = lane->folded + ((int64_t)1 << lane->shift >> 1);
                lane->high = moved >> lane->shift;
                write_bits(bits, moved & (((int64_t)1 << lane->shift) - 1), lane->shift);
                symbol = lane->high > LIMIT ? LIMIT : lane->high < -LIMIT ? -LIMIT : lane->high;
            }
            symbol = (symbol + CENTRE) & (SYMBOLS - 1);
            shares[at].frequency = t->frequency[lane->context][symbol];
            shares[at++].below = t->below[lane->context][symbol];
            count(t, lane->context, (int)symbol);
            remember(lot, lane, code);
        }
        for (int64_t l = 0; l < active; l++) {
            int64_t size = lanes[l].high < 0 ? -lanes[l].high : lanes[l].high;
            if (size >= LIMIT) {
                int length = bit_length((uint64_t)(size - LIMIT));
                write_bits(bits, length, LENGTH_BITS);
                write_bits(bits, size - LIMIT, length);
            }
        }
        if ((step + 1) % block_steps(lot) == 0) change_tables(t);
    }
}

/* Write words back to front, ending at `end`, and return where they start. */
static uint16_t *code_lot(const Lot *lot, const Share *shares, uint64_t *states, uint16_t *end) {
    for (int64_t l = 0; l < lot->lanes; l++) states[l] = LOWEST;
    for (int64_t at = lot->count; at--;) {
        uint64_t *state = states + at % lot->lanes, frequency = shares[at].frequency;
        if (*state >= frequency << 24) {
            *--end = (uint16_t)(*state & 0xffff);
            *state >>= 16;
        }
        uint64_t quotient = *state / frequency;
        *state = (quotient << 16) + (*state - quotient * frequency) + shares[at].below;
    }
    return end;
}

/* ---------------------------------------------------------------- Python */

typedef struct {
    Py_buffer base, reference, reference_fixed, rows, coefficients;
    Py_buffer starts, activities, exponents, contexts;
} Views;

static void release(Views *v) {
    Py_buffer *all[] = {&v->base,   &v->reference,  &v->reference_fixed, &v->rows,    &v->coefficients,
                        &v->starts, &v->activities, &v->exponents,       &v->contexts};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) PyBuffer_Release(all[i]);
}

/* Return whether the views have the sizes and numbers that a lot must have. */
static int fill_lot(const Views *v, int kind, Py_ssize_t lanes, Lot *lot) {
    memset(lot, 0, sizeof *lot);
    lot->kind = kind;
    lot->lanes = lanes;
    lot->contexts = v->contexts.buf;
    if (kind < 0 || kind > MASK_KIND) return 0;
    if (kind == MASK_KIND) {
        lot->count = v->contexts.len / 8;
        for (int64_t i = 0; i < lot->count; i++)
            if (lot->contexts[i] < 0 || lot->contexts[i] >= CONTEXTS) return 0;
    } else {
        lot->count = v->base.len / 8;
        lot->segments = v->starts.len / 8;
        lot->coefficient_rows = v->coefficients.len / 8 / TAPS;
        lot->base = v->base.buf;
        lot->reference = v->reference.buf;
        lot->reference_fixed = v->reference_fixed.buf;
        lot->rows = v->rows.buf;
        lot->coefficients = v->coefficients.buf;
        lot->starts = v->starts.buf;
        lot->activities = v->activities.buf;
        lot->exponents = v->exponents.buf;
        if (v->reference.len / 8 != lot->count || v->reference_fixed.len / 8 != lot->count ||
            v->rows.len / 2 != lot->count || v->activities.len / 8 != lot->segments ||
            v->exponents.len / 8 != lot->segments || lot->segments < 1 || lot->starts[0] != 0)
            return 0;
        for (int64_t i = 0; i < lot->count; i++)
            if (lot->rows[i] < 0 || lot->rows[i] >= lot->coefficient_rows) return 0;
        for (int64_t i = 0; i < lot->segments; i++)
            if (lot->activities[i] < 0 || lot->activities[i] > 95 || lot->exponents[i] < -128 ||
                lot->exponents[i] > 127 || (i && lot->starts[i] <= lot->starts[i - 1]))
                return 0;
    }
    return lanes >= 1 && lanes <= MAX_LANES && lanes <= lot->count;
}

#define LOT_FORMAT "iny*y*y*y*y*y*y*y*y*"
#define LOT_ARGUMENTS(v)                                                                          \
    &(v).base, &(v).reference, &(v).reference_fixed, &(v).rows, &(v).coefficients, &(v).starts,   \
        &(v).activities, &(v).exponents, &(v).contexts

static PyObject *py_decode(PyObject *module, PyObject *args) {
    (void)module;
    Views v;
    Py_buffer states, words, bits;
    int kind;
    Py_ssize_t lane_count;
    if (!PyArg_ParseTuple(args, LOT_FORMAT "y*y*y*", &kind, &lane_count, LOT_ARGUMENTS(v), &states,
                          &words, &bits))
        return NULL;
    Lot lot;
    PyObject *result = NULL;
    Tables *t = malloc(sizeof *t);
    Lane *lanes = calloc(MAX_LANES, sizeof *lanes);
    if (!t || !lanes) {
        PyErr_NoMemory();
    } else if (!fill_lot(&v, kind, lane_count, &lot) || states.len != STATE_BYTES * lane_count) {
        PyErr_SetString(PyExc_ValueError, "expected a sound lot");
    } else if ((result = PyBytes_FromStringAndSize(NULL, 8 * (Py_ssize_t)lot.count))) {
        int64_t *out = (int64_t *)PyBytes_AsString(result);
        BitReader reader = {bits.buf, 8 * (uint64_t)bits.len, 0, 0};
        int is_right;
        Py_BEGIN_ALLOW_THREADS
        is_right = decode_lot(&lot, t, lanes, states.buf, words.buf, words.len / 2, &reader, out);
        Py_END_ALLOW_THREADS
        if (!is_right) {
            Py_DECREF(result);
            result = Py_NewRef(Py_None);
        }
    }
    free(t);
    free(lanes);
    release(&v);
    PyBuffer_Release(&states);
    PyBuffer_Release(&words);
    PyBuffer_Release(&bits);
    return result;
}

static PyObject *packed_result(const Lot *lot, const uint64_t *states, const uint16_t *words,
                               const uint16_t *end, const BitWriter *bits) {
    uint8_t octets[STATE_BYTES * MAX_LANES];
    for (int64_t l = 0; l < lot->lanes; l++)
        for (int byte = 0; byte < STATE_BYTES; byte++)
            octets[STATE_BYTES * l + byte] = (uint8_t)(states[l] >> (8 * byte));
    return Py_BuildValue("y#y#y#", (char *)octets, (Py_ssize_t)(STATE_BYTES * lot->lanes),
                         (const char *)words, (Py_ssize_t)(2 * (end - words)), (char *)bits->data,
                         (Py_ssize_t)((bits->at + 7) / 8));
}

static PyObject *py_encode(PyObject *module, PyObject *args) {
    (void)module;
    Views v;
    Py_buffer codes;
    int kind;
    Py_ssize_t lane_count;
    if (!PyArg_ParseTuple(args, LOT_FORMAT "y*", &kind, &lane_count, LOT_ARGUMENTS(v), &codes))
        return NULL;
    Lot lot;
    PyObject *result = NULL;
    Tables *t = malloc(sizeof *t);
    Lane *lanes = calloc(MAX_LANES, sizeof *lanes);
    Share *shares = NULL;
    uint16_t *words = NULL;
    BitWriter bits = {NULL, 0};
    uint64_t states[MAX_LANES];
    if (!fill_lot(&v, kind, lane_count, &lot) || codes.len / 8 != lot.count) {
        PyErr_SetString(PyExc_ValueError, "expected a sound lot");
        goto done;
    }
    shares = malloc((size_t)lot.count * sizeof *shares);
    words = malloc((size_t)lot.count * sizeof *words);
    bits.data = calloc((size_t)lot.count + 1, 9); /* 31 + 6 + 32 bits at most, each */
    if (!t || !lanes || !shares || !words || !bits.data) {
        PyErr_NoMemory();
        goto done;
    }
    uint16_t *end = words + lot.count, *start;
    Py_BEGIN_ALLOW_THREADS
    model_lot(&lot, t, lanes, codes.buf, shares, &bits);
    start = code_lot(&lot, shares, states, end);
    Py_END_ALLOW_THREADS
    result = packed_result(&lot, states, start, end, &bits);
done:
    free(t);
    free(lanes);
    free(shares);
    free(words);
    free(bits.data);
    release(&v);
    PyBuffer_Release(&codes);
    return result;
}

static PyMethodDef METHODS[] = {
    {"decode", py_decode, METH_VARARGS, "Return the codes of a lot as int64 bytes, or None."},
    {"encode", py_encode, METH_VARARGS, "Return (states, words, bits) of a lot."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, "_lanes", "The lanes of edgec's tensor deltas.", 0, METHODS,
    NULL,                  NULL,     NULL,                                  NULL};

PyMODINIT_FUNC PyInit__lanes(void);
PyMODINIT_FUNC PyInit__lanes(void) { return PyModule_Create(&MODULE); }
