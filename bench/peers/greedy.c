/* The plain greedy in C: for each VM a scan of all hosts, nothing kept between two VMs.
 *
 * An expression is postfix code over blocks of BLOCK hosts, so that every operation is a loop the compiler turns
 * into vector instructions and the operands stay in the first-level cache. */

#include <math.h>
#include <stdint.h>

#define BLOCK 256
#define DEPTH 32

enum { COLUMN, CONSTANT, NEG, NOT, ADD, SUB, MUL, DIV, LT, LE, GT, GE, EQ, NE, AND, OR, CHOOSE };

typedef double block[BLOCK];

#define EACH(expression) \
    for (int i = 0; i < BLOCK; i++) a[i] = (expression); \
    break

static void run(const int32_t *code, int length, const double *constants, const double *columns, int64_t stride,
                int64_t first, block *stack) {
    int top = -1;
    for (int at = 0; at < length; at++) {
        const int32_t operation = code[2 * at], argument = code[2 * at + 1];
        if (operation == COLUMN || operation == CONSTANT) {
            double *a = stack[++top];
            if (operation == COLUMN) {
                const double *column = columns + argument * stride + first;
                for (int i = 0; i < BLOCK; i++) a[i] = column[i];
            } else {
                const double value = constants[argument];
                for (int i = 0; i < BLOCK; i++) a[i] = value;
            }
            continue;
        }
        top -= operation == CHOOSE ? 2 : operation == NEG || operation == NOT ? 0 : 1;
        double *restrict a = stack[top];
        const double *restrict b = stack[top + 1], *restrict c = stack[top + 2];
        switch (operation) {
            case NEG: EACH(-a[i]);
            case NOT: EACH(a[i] == 0);
            case ADD: EACH(a[i] + b[i]);
            case SUB: EACH(a[i] - b[i]);
            case MUL: EACH(a[i] * b[i]);
            case DIV: EACH(a[i] / b[i]);
            case LT: EACH(a[i] < b[i]);
            case LE: EACH(a[i] <= b[i]);
            case GT: EACH(a[i] > b[i]);
            case GE: EACH(a[i] >= b[i]);
            case EQ: EACH(a[i] == b[i]);
            case NE: EACH(a[i] != b[i]);
            case AND: EACH((a[i] != 0) & (b[i] != 0));
            case OR: EACH((a[i] != 0) | (b[i] != 0));
            case CHOOSE: EACH(a[i] != 0 ? b[i] : c[i]);
        }
    }
}

/* The first four columns are what a VM takes, the fifth counts the VMs; all are padded to whole blocks with hosts
 * that have no room. begins[2 i] is where VM i's requirement starts in the code, begins[2 i + 1] its rank; ends
 * likewise. */
void greedy(int64_t vms, int64_t hosts, double *columns, int64_t stride, const double *needs, const int32_t *code,
            const int64_t *begins, const int64_t *ends, const double *constants, int64_t *chosen) {
    block requirement[DEPTH], rank[DEPTH], key;
    for (int64_t vm = 0; vm < vms; vm++) {
        const double *need = needs + 4 * vm;
        const int64_t from = begins[2 * vm], to = ends[2 * vm];
        const int64_t rank_from = begins[2 * vm + 1], rank_to = ends[2 * vm + 1];
        double best = -INFINITY;
        int64_t host = -1;
        for (int64_t first = 0; first < hosts; first += BLOCK) {
            const double *cpu = columns + first, *mem = cpu + stride, *disk = mem + stride, *gpu = disk + stride;
            run(code + 2 * from, (int)(to - from), constants, columns, stride, first, requirement);
            run(code + 2 * rank_from, (int)(rank_to - rank_from), constants, columns, stride, first, rank);
            double highest[8];
            for (int i = 0; i < BLOCK; i++) {
                const int fits = (cpu[i] >= need[0]) & (mem[i] >= need[1]) & (disk[i] >= need[2]) & (gpu[i] >= need[3]);
                key[i] = fits & (requirement[0][i] != 0) ? rank[0][i] : -INFINITY;
            }
            for (int k = 0; k < 8; k++) highest[k] = -INFINITY;
            for (int i = 0; i < BLOCK; i += 8)
                for (int k = 0; k < 8; k++) highest[k] = key[i + k] > highest[k] ? key[i + k] : highest[k];
            double top = -INFINITY;
            for (int k = 0; k < 8; k++) top = highest[k] > top ? highest[k] : top;
            if (top > best) {
                best = top;
                for (int i = 0; i < BLOCK; i++)
                    if (key[i] == top) {
                        host = first + i;
                        break;
                    }
            }
        }
        chosen[vm] = host;
        if (host >= 0) {
            for (int i = 0; i < 4; i++) columns[i * stride + host] -= need[i];
            columns[4 * stride + host] += 1;
        }
    }
}
