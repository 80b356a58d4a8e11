/* The match of one VM: all hosts in one pass, expressions and all.
 *
 * placement/kernel.py makes the requests and knows their layout; placement/match.py says what is decided, and does
 * the same in numpy where this is not built. Results are equal to numpy's bit by bit: compile without fast-math and
 * without fused multiply-add.
 *
 * Postfix code runs over blocks of hosts, so that each operation is a loop that the compiler turns into vector
 * instructions, on operands that stay in the first-level cache. Numbers are doubles, truths are bytes. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define BLOCK 256
#define DEPTH 24 /* kernel.py refuses code that needs more */

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#if __GNUC__ >= 12
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx2", "default")))
#endif
#else
#define FOR_EACH_PROCESSOR
#endif
#define INLINED static inline __attribute__((always_inline))

enum {
    NUMBER, TRUTH, CONSUMED, LITERAL, DIVISOR, NOT_A_NUMBER, ONE, ZERO,
    ADD, SUBTRACT, MULTIPLY, DIVIDE, MIN, MAX, ABS, FLOOR, CEIL, NONZERO, WHERE,
    LESS, AT_MOST, GREATER, AT_LEAST, EQUAL, UNEQUAL, AND, OR, IS_TRUE, IS_FALSE
};

enum { CAPACITIES = 6, RUNNING = CAPACITIES }; /* placement/size.py */

typedef struct {
    int64_t scalar;     /* column is one double for all hosts */
    const void *column; /* doubles for a number, bytes for a truth */
} part;

typedef struct {
    const int32_t *code; /* pairs of operation and number */
    int64_t length;
    const double *literals;
    const part *parts;
} term;

typedef struct {
    int64_t rows;           /* how many hosts to look at */
    const int32_t *which;   /* which ones, ascending; NULL for the first `rows` of the table */
    int32_t *keep;          /* out: those with room where the still terms are true; may be `which`, or NULL */
    const uint8_t *limits;  /* hosts that are large enough at all, or NULL */
    const uint8_t *allowed; /* hosts that may be chosen this time, or NULL */
    double *const *free;    /* the columns that placements change; NULL where no host has one */
    const double *needs;    /* how much of the first CAPACITIES of them it takes */
    int64_t runner_up;      /* whether that is asked for */
    int64_t changing, ranked, still; /* how many terms that placements change, ranks (0 or 1), and other terms */
    term terms[];                    /* in that order */
} request;

typedef union {
    double number[BLOCK];
    uint8_t truth[BLOCK];
} block;

/* Vector instructions that gather are slower than single loads on most processors: these are compiled without them. */
static __attribute__((noinline)) void gather(double *to, const double *column, const int32_t *which, int n) {
    for (int i = 0; i < n; i++) to[i] = column[which[i]];
}

static __attribute__((noinline)) void gather_truths(uint8_t *to, const uint8_t *column, const int32_t *which, int n) {
    for (int i = 0; i < n; i++) to[i] = column[which[i]];
}

/* Run one term for n hosts from `first` on, or for those of `which`. The result may be a column itself. */
INLINED const void *run(const request *asked, const term *what, const int32_t *which, int64_t first, int n,
                        block *space) {
    const void *stack[DEPTH + 3] = {NULL}; /* an operation of one operand looks at two more and ignores them */
    int top = -1;
    for (int64_t at = 0; at < what->length; at++) {
        const int32_t operation = what->code[2 * at], number = what->code[2 * at + 1];
        if (operation <= ZERO) {
            double value = NAN;
            const double *column = NULL;
            double *to = space[++top].number;
            stack[top] = to;
            if (operation == TRUTH) {
                const part *from = what->parts + number;
                uint8_t *truths = space[top].truth;
                if (from->scalar)
                    memset(truths, *(const double *)from->column != 0, n);
                else if (!which)
                    stack[top] = (const uint8_t *)from->column + first;
                else
                    gather_truths(truths, from->column, which, n);
                continue;
            }
            if (operation == NUMBER) {
                const part *from = what->parts + number;
                if (from->scalar)
                    value = *(const double *)from->column;
                else
                    column = from->column;
            } else if (operation == CONSUMED)
                column = asked->free[number];
            else if (operation == LITERAL)
                value = what->literals[number];
            else if (operation == DIVISOR)
                value = what->literals[number] != 0 ? what->literals[number] : NAN;
            else if (operation != NOT_A_NUMBER)
                value = operation == ONE ? 1.0 : 0.0;
            if (!column)
                for (int i = 0; i < n; i++) to[i] = value;
            else if (!which)
                stack[top] = column + first;
            else
                gather(to, column, which, n);
            continue;
        }
        if (operation == WHERE)
            top -= 2;
        else if (!((operation >= ABS && operation <= NONZERO) || operation >= IS_TRUE))
            top -= 1;
        const double *a = stack[top], *b = stack[top + 1], *c = stack[top + 2];
        const uint8_t *s = stack[top], *t = stack[top + 1];
        double *to = space[top].number;
        uint8_t *truths = space[top].truth;
        uint8_t ready[BLOCK]; /* a truth must not be written over the numbers that it is made of */
        stack[top] = to;
#define NUMBERS(expression) \
    for (int i = 0; i < n; i++) to[i] = (expression); \
    break
#define TRUTHS(expression) \
    for (int i = 0; i < n; i++) ready[i] = (expression); \
    memcpy(truths, ready, n); \
    break
        switch (operation) {
            case ADD: NUMBERS(a[i] + b[i]);
            case SUBTRACT: NUMBERS(a[i] - b[i]);
            case MULTIPLY: NUMBERS(a[i] * b[i]);
            case DIVIDE: NUMBERS(a[i] / b[i]);
            case MIN: NUMBERS(a[i] < b[i] || a[i] != a[i] ? a[i] : b[i]);
            case MAX: NUMBERS(a[i] > b[i] || a[i] != a[i] ? a[i] : b[i]);
            case ABS: NUMBERS(fabs(a[i]));
            case FLOOR: NUMBERS(floor(a[i]));
            case CEIL: NUMBERS(ceil(a[i]));
            case NONZERO: NUMBERS(a[i] == 0 ? NAN : a[i]);
            case WHERE: {
                uint8_t chosen[BLOCK]; /* likewise, the other way round */
                memcpy(chosen, s, n);
                NUMBERS(chosen[i] ? b[i] : c[i]);
            }
            case LESS: TRUTHS(a[i] < b[i]);
            case AT_MOST: TRUTHS(a[i] <= b[i]);
            case GREATER: TRUTHS(a[i] > b[i]);
            case AT_LEAST: TRUTHS(a[i] >= b[i]);
            case EQUAL: TRUTHS(a[i] == b[i]);
            case UNEQUAL: TRUTHS((a[i] < b[i]) | (a[i] > b[i]));
            case AND: TRUTHS(s[i] & t[i]);
            case OR: TRUTHS(s[i] | t[i]);
            case IS_TRUE: TRUTHS((a[i] < 0) | (a[i] > 0));
            case IS_FALSE: TRUTHS(a[i] == 0);
        }
    }
    return stack[0];
}

INLINED int any(const uint8_t *truths, int n) {
    uint8_t found = 0;
    for (int i = 0; i < n; i++) found |= truths[i];
    return found;
}

INLINED int all(const uint8_t *truths, int n) {
    uint8_t found = 1;
    for (int i = 0; i < n; i++) found &= truths[i];
    return found;
}

INLINED double most(const double *numbers, int n) {
    double lanes[8], highest = -INFINITY;
    int i = 0;
    for (int k = 0; k < 8; k++) lanes[k] = -INFINITY;
    for (; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; k++) lanes[k] = numbers[i + k] > lanes[k] ? numbers[i + k] : lanes[k];
    for (int k = 0; k < 8; k++) highest = lanes[k] > highest ? lanes[k] : highest;
    for (; i < n; i++) highest = numbers[i] > highest ? numbers[i] : highest;
    return highest;
}

/* Where a number that is there is for the first time. */
INLINED int locate(const double *numbers, double wanted) {
    int i = 0;
    while (numbers[i] != wanted) i++;
    return i;
}

/* Choose the host of highest rank that has room and satisfies all terms, the lowest of equals, and place the VM there.
 * Answers how many hosts were kept. `found`: the host and its rank, the runner-up and its rank; -1 for none, and NaN
 * for hosts without a rank, which come last. */
FOR_EACH_PROCESSOR
int64_t isthmus_place(const request *asked, double *found) {
    block space[DEPTH];
    uint8_t fits[BLOCK], good[BLOCK];
    int32_t index[BLOCK];
    double key[BLOCK];
    double best = -INFINITY, second = -INFINITY;
    int64_t best_at = -1, second_at = -1, kept = 0, unranked[2] = {-1, -1};
    for (int64_t first = 0; first < asked->rows; first += BLOCK) {
        const int n = asked->rows - first < BLOCK ? (int)(asked->rows - first) : BLOCK;
        const int32_t *which = NULL;
        if (asked->which) {
            memcpy(index, asked->which + first, n * sizeof *index); /* `keep` may write there */
            which = index;
        }
        if (asked->limits && !which)
            memcpy(fits, asked->limits + first, n);
        else
            memset(fits, 1, n);
        if (asked->limits && which) gather_truths(fits, asked->limits, which, n);
        for (int k = 0; k < CAPACITIES; k++) {
            const double need = asked->needs[k], *column = asked->free[k];
            if (!(need > 0)) continue;
            if (!column) {
                memset(fits, 0, n);
                continue;
            }
            const double *free = column + first;
            if (which) gather(key, column, which, n), free = key;
            for (int i = 0; i < n; i++) fits[i] &= free[i] >= need;
        }
        const term *still = asked->terms + asked->changing + asked->ranked;
        for (int64_t k = 0; k < asked->still && any(fits, n); k++) {
            const uint8_t *term_is_true = run(asked, still + k, which, first, n, space);
            for (int i = 0; i < n; i++) fits[i] &= term_is_true[i];
        }
        if (!any(fits, n)) continue;
        if (asked->keep && which && kept == first && all(fits, n))
            kept += n;
        else if (asked->keep)
            for (int i = 0; i < n; i++) {
                asked->keep[kept] = which ? which[i] : (int32_t)(first + i);
                kept += fits[i];
            }
        const uint8_t *truths = fits;
        if (asked->changing || asked->allowed) {
            memcpy(good, fits, n);
            truths = good;
        }
        for (int64_t k = 0; k < asked->changing; k++) {
            const uint8_t *term_is_true = run(asked, asked->terms + k, which, first, n, space);
            for (int i = 0; i < n; i++) good[i] &= term_is_true[i];
        }
        if (asked->allowed) {
            const uint8_t *allowed = asked->allowed + first;
            if (which) gather_truths(space[0].truth, asked->allowed, which, n), allowed = space[0].truth;
            for (int i = 0; i < n; i++) good[i] &= allowed[i];
        }
        if (!any(truths, n)) continue;
        if (asked->ranked) {
            const double *ranks = run(asked, asked->terms + asked->changing, which, first, n, space);
            for (int i = 0; i < n; i++) key[i] = (truths[i] != 0) & (ranks[i] > -INFINITY) ? ranks[i] : -INFINITY;
        } else
            for (int i = 0; i < n; i++) key[i] = truths[i] ? 0 : -INFINITY;
        double highest = most(key, n);
        if (highest > best) {
            const int at = locate(key, highest);
            second = best, second_at = best_at;
            best = highest, best_at = which ? which[at] : first + at;
            if (asked->runner_up) key[at] = -INFINITY, highest = most(key, n);
        }
        if (asked->runner_up && highest > second && highest <= best) {
            const int at = locate(key, highest);
            second = highest, second_at = which ? which[at] : first + at;
        }
        if ((asked->runner_up ? second_at : best_at) < 0 && unranked[1] < 0)
            for (int i = 0; i < n; i++) {
                const int64_t host = which ? which[i] : first + i;
                if (truths[i] && key[i] == -INFINITY && host != best_at && unranked[1] < 0)
                    unranked[unranked[0] >= 0] = host;
            }
    }
    if (best_at < 0)
        best_at = unranked[0], second_at = unranked[1];
    else if (second_at < 0)
        second_at = unranked[0];
    if (!asked->runner_up) second_at = -1;
    found[0] = (double)best_at;
    found[1] = best > -INFINITY ? best : NAN;
    found[2] = (double)second_at;
    found[3] = second > -INFINITY ? second : NAN;
    if (best_at >= 0) {
        for (int k = 0; k < CAPACITIES; k++)
            if (asked->free[k] && asked->needs[k] != 0) asked->free[k][best_at] -= asked->needs[k];
        if (asked->free[RUNNING]) asked->free[RUNNING][best_at] += 1;
    }
    return kept;
}
