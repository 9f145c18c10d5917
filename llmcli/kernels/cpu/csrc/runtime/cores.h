/* Which processor core each thread runs on. */
#ifndef LLM_CPU_RUNTIME_CORES_H
#define LLM_CPU_RUNTIME_CORES_H

#include <stdint.h>

#ifdef __linux__
#include <sched.h>
#endif

/* Where threads run: each on a core of its own, counted from the one that the caller happens to be on. Left alone, they
   may be woken on the caller's core and stay there, which is five times slower (measured), because the others are not
   quite idle. */
typedef struct {
    const int32_t *cpus; /* one of each core that may be used, then which core each of `numbers` processors belongs to */
    int32_t cores, numbers;
} Cores;

/* Where a thread was before it was put on a core. */
typedef struct {
#ifdef __linux__
    cpu_set_t before;
#endif
    int core; /* -1: it has been left where it was */
} Placed;

#ifdef __linux__
static int current_core(const Cores *cores) {
    int cpu = sched_getcpu();
    return cpu >= 0 && cpu < cores->numbers ? cores->cpus[cores->cores + cpu] : -1;
}

/* Move the calling thread to a core; `*at` is where it was put before. */
static void stay_on(const Cores *cores, int core, int *at) {
    cpu_set_t set;
    if (core == *at) return;
    CPU_ZERO(&set);
    CPU_SET(cores->cpus[core], &set);
    if (sched_setaffinity(0, sizeof set, &set) == 0) *at = core;
}
#endif

#endif
