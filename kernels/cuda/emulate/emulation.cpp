// The emulator's runtime: fibers, barriers, warp operations, shared memory, and the C interface that the CUDA backend
// loads in tests. See cuda_emulation.h for what is modelled.

#include <link.h>
#include <pthread.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cuda_emulation.h"
#include "fiber.h"

namespace kiln_emulate {

__thread Thread* current = nullptr;

namespace {

constexpr unsigned MAX_THREADS = 1024;
/// What a device of compute capability 9.0 lets a block ask for; the backend knows the limit of the device that it emulates.
constexpr unsigned MAX_SHARED = 227 * 1024;
/// Odd as a number, a NaN as f32 and f16, a large index.
constexpr unsigned char POISON = 0xff;

enum class State { READY, AT_BARRIER, IN_WARP, DONE };

struct Copy {
    void* shared;
    const void* global;
    unsigned bytes, group;
};

/// One thread of the block: its view of itself, first, and where it stands.
struct Lane {
    Thread thread;
    Fiber fiber;
    State state;
    const char* waits_in;
    WarpOperation operation;
    uint32_t mask;
    bool predicate;
    unsigned group;  // of the copies queued now
    std::vector<Copy> copies;
};

/// A launch on the calling OS thread. Allocated on the heap: the TLS segment belongs to the kernels.
struct Launch {
    std::vector<Lane> lanes;
    std::vector<Lanes> warps;
    std::vector<unsigned char> shared;
    Stacks stacks;
    Fiber scheduler;
    const Kernel* kernel = nullptr;
    void** arguments = nullptr;
    unsigned threads = 0, waiting = 0, done = 0;
    int votes = 0;
    bool failed = false;
    char error[512];

    unsigned char* dynamic() {
        const auto address = reinterpret_cast<uintptr_t>(shared.data());
        return shared.data() + ((address + 15) / 16 * 16 - address);
    }
};

const Kernel*& kernels() {
    static const Kernel* first = nullptr;
    return first;
}

// Kept between launches, an OS thread each, without TLS of ours.
pthread_key_t launch_key() {
    static const pthread_key_t key = [] {
        pthread_key_t made;
        pthread_key_create(&made, [](void* launch) { delete static_cast<Launch*>(launch); });
        return made;
    }();
    return key;
}
Launch& launch() {
    void* kept = pthread_getspecific(launch_key());
    if (kept == nullptr) {
        kept = new Launch();
        pthread_setspecific(launch_key(), kept);
    }
    return *static_cast<Launch*>(kept);
}

Lane& self() { return *reinterpret_cast<Lane*>(current); }

/// The calling thread's copy of this library's TLS segment: the shared variables of all kernels.
struct Segment {
    void* address = nullptr;
    size_t bytes = 0;
};
Segment shared_variables() {
    Segment found;
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* out) {
            const auto here = reinterpret_cast<uintptr_t>(&shared_variables);
            bool ours = false;
            const ElfW(Phdr)* tls = nullptr;
            for (int i = 0; i < info->dlpi_phnum; i++) {
                const ElfW(Phdr)& part = info->dlpi_phdr[i];
                const uintptr_t start = info->dlpi_addr + part.p_vaddr;
                ours |= part.p_type == PT_LOAD && here >= start && here < start + part.p_memsz;
                if (part.p_type == PT_TLS) tls = &part;
            }
            if (!ours) return 0;
            if (tls != nullptr) *static_cast<Segment*>(out) = {info->dlpi_tls_data, tls->p_memsz};
            return 1;
        },
        &found);
    return found;
}

void poison_shared(Launch& launch) {
    Thread* const kept = current;  // touched first: the segment is made when it is first needed
    const Segment variables = shared_variables();
    if (variables.address != nullptr) std::memset(variables.address, POISON, variables.bytes);
    current = kept;
    std::memset(launch.shared.data(), POISON, launch.shared.size());
}

void record(Launch& launch, const char* format, va_list values) {
    if (launch.failed) return;
    launch.failed = true;
    char what[384];
    std::vsnprintf(what, sizeof what, format, values);
    std::snprintf(launch.error, sizeof launch.error, "%s: %s", launch.kernel->name, what);
}
void report(Launch& launch, const char* format, ...) __attribute__((format(printf, 2, 3)));
void report(Launch& launch, const char* format, ...) {
    va_list values;
    va_start(values, format);
    record(launch, format, values);
    va_end(values);
}

/// Back to the scheduler, until it resumes this lane.
void give_way() {
    Launch& here = launch();
    switch_fiber(self().fiber, here.scheduler, false);
}

/// Where a fiber starts.
void run_lane() {
    Launch& here = launch();
    finish_switch(self().fiber, &here.scheduler);
    here.kernel->call(*here.kernel, here.arguments);
    self().state = State::DONE;
    here.done++;
    switch_fiber(self().fiber, here.scheduler, true);
}

void resume(Launch& here, Lane& lane) {
    current = &lane.thread;
    switch_fiber(here.scheduler, lane.fiber, false);
}

void release_barrier(Launch& here) {
    here.waiting = 0;
    for (unsigned i = 0; i < here.threads; i++) here.lanes[i].state = State::READY;
}

/// Nothing can run any more, and not all are done: says who waits for whom.
void report_deadlock(Launch& here) {
    const Lane* warp_waiter = nullptr;
    const Lane* barrier_waiter = nullptr;
    for (unsigned i = 0; i < here.threads; i++) {
        const Lane& lane = here.lanes[i];
        if (lane.state == State::IN_WARP && warp_waiter == nullptr) warp_waiter = &lane;
        if (lane.state == State::AT_BARRIER && barrier_waiter == nullptr) barrier_waiter = &lane;
    }
    if (warp_waiter != nullptr) {
        const unsigned first = (warp_waiter - here.lanes.data()) / WARP * WARP;
        for (unsigned other = 0; other < WARP; other++) {
            if (!(warp_waiter->mask >> other & 1)) continue;
            const Lane& lane = here.lanes[first + other];
            const bool meets = lane.state == State::IN_WARP && lane.operation == warp_waiter->operation && lane.mask == warp_waiter->mask;
            if (meets) continue;
            report(here, "lane %u of warp %u waits in %s with mask %08x for lane %u, which %s%s", warp_waiter->thread.lane,
                   first / WARP, warp_waiter->waits_in, warp_waiter->mask, other,
                   lane.state == State::DONE ? "has returned" : "waits in ", lane.state == State::DONE ? "" : lane.waits_in);
            return;
        }
    }
    if (barrier_waiter != nullptr)
        report(here, "thread %u waits in %s, and %u of %u threads have returned", barrier_waiter->thread.thread_index.x,
               barrier_waiter->waits_in, here.done, here.threads);
}

bool in_reverse() {
    static const bool reverse = [] {
        const char* order = std::getenv("KILN_EMULATION_ORDER");
        return order != nullptr && std::strcmp(order, "reverse") == 0;
    }();
    return reverse;
}

void run_block(Launch& here, dim3 grid, uint3 block_index) {
    poison_shared(here);
    here.waiting = here.done = 0;
    for (unsigned i = 0; i < here.threads; i++) {
        Lane& lane = here.lanes[i];
        lane.thread = {{i, 0, 0}, block_index, dim3(here.threads), grid, i % WARP, &here.warps[i / WARP].slot[i % WARP]};
        lane.state = State::READY;
        lane.waits_in = "";
        lane.group = 0;
        lane.copies.clear();
        start_fiber(lane.fiber, here.stacks, i, &run_lane);
    }
    const unsigned warps = (here.threads + WARP - 1) / WARP;
    while (here.done < here.threads && !here.failed) {
        bool moved = false;
        for (unsigned w = 0; w < warps && !here.failed; w++) {
            const unsigned warp = in_reverse() ? warps - 1 - w : w;
            // A warp goes on until all its lanes wait for other warps, or are done.
            for (bool again = true; again && !here.failed;) {
                again = false;
                for (unsigned lane = 0; lane < WARP && !here.failed; lane++) {
                    const unsigned i = warp * WARP + (in_reverse() ? WARP - 1 - lane : lane);
                    if (i < here.threads && here.lanes[i].state == State::READY) {
                        resume(here, here.lanes[i]);
                        moved = again = true;
                    }
                }
            }
        }
        if (!moved && !here.failed) report_deadlock(here);
    }
    current = nullptr;
}

}  // namespace

void enrol(Kernel& kernel) {
    kernel.next = kernels();
    kernels() = &kernel;
}

void fail(const char* format, ...) {
    Launch& here = launch();
    va_list values;
    va_start(values, format);
    record(here, format, values);
    va_end(values);
    // The block is abandoned: no lane is resumed.
    for (;;) give_way();
}

void meet(WarpOperation operation, const char* name, uint32_t mask) {
    Launch& here = launch();
    Lane& me = self();
    const unsigned first = (&me - here.lanes.data()) / WARP * WARP;
    if (!(mask >> me.thread.lane & 1)) fail("lane %u calls %s with mask %08x, which does not name it", me.thread.lane, name, mask);
    const unsigned there = here.threads - first < WARP ? here.threads - first : WARP;
    if (there < WARP && mask >> there != 0) fail("%s with mask %08x in a warp of %u lanes", name, mask, there);
    me.state = State::IN_WARP;
    me.operation = operation;
    me.mask = mask;
    me.waits_in = name;
    for (unsigned other = 0; other < there; other++) {
        const Lane& lane = here.lanes[first + other];
        const bool meets = lane.state == State::IN_WARP && lane.operation == operation && lane.mask == mask;
        if (mask >> other & 1 && !meets) return give_way();
    }
    operation(here.warps[first / WARP], mask);
    for (unsigned other = 0; other < there; other++)
        if (mask >> other & 1) here.lanes[first + other].state = State::READY;
}

int barrier(const char* name, bool predicate) {
    Launch& here = launch();
    Lane& me = self();
    me.state = State::AT_BARRIER;
    me.waits_in = name;
    me.predicate = predicate;
    if (++here.waiting < here.threads) {
        give_way();
    } else {
        here.votes = 0;
        for (unsigned i = 0; i < here.threads; i++) {
            const Lane& lane = here.lanes[i];
            if (std::strcmp(lane.waits_in, name) != 0) fail("thread %u is in %s, thread %u in %s", me.thread.thread_index.x, name, i, lane.waits_in);
            here.votes += lane.predicate;
        }
        release_barrier(here);
    }
    return here.votes;
}

void* dynamic_shared() { return launch().dynamic(); }

void copy_later(void* shared, const void* global, unsigned bytes) {
    if (reinterpret_cast<uintptr_t>(shared) % 16 != 0 || reinterpret_cast<uintptr_t>(global) % 16 != 0)
        fail("cp.async of addresses that 16 does not divide: to %p from %p", shared, global);
    self().copies.push_back({shared, global, bytes, self().group});
}

void commit_copies() { self().group++; }

void wait_copies(unsigned pending) {
    Lane& me = self();
    std::vector<Copy> later;
    for (const Copy& copy : me.copies) {
        if (copy.group + pending >= me.group) {
            later.push_back(copy);
            continue;
        }
        std::memset(copy.shared, 0, 16);
        std::memcpy(copy.shared, copy.global, copy.bytes);
    }
    me.copies.swap(later);
}

}  // namespace kiln_emulate

// --- The interface ---------------------------------------------------------------------------------------------------

using kiln_emulate::Kernel;

namespace {
const Kernel* find(const char* name) {
    const Kernel* kernel = kiln_emulate::kernels();
    while (kernel != nullptr && std::strcmp(kernel->name, name) != 0) kernel = kernel->next;
    return kernel;
}
}  // namespace

#define KILN_EXPORT extern "C" __attribute__((visibility("default")))

/// The number of parameters of a kernel, -1 where there is none of that name; their sizes go to `bytes[0..capacity]`.
KILN_EXPORT int kiln_emulate_parameters(const char* name, unsigned* bytes, unsigned capacity) {
    const Kernel* kernel = find(name);
    if (kernel == nullptr) return -1;
    for (unsigned i = 0; i < kernel->parameters && i < capacity; i++) bytes[i] = kernel->parameter_bytes[i];
    return static_cast<int>(kernel->parameters);
}

/// Runs a kernel over `grid` blocks of `threads` threads; 0, or 1 with what was wrong in `error[0..capacity]`.
KILN_EXPORT int kiln_emulate_launch(const char* name, const unsigned grid[3], unsigned threads, unsigned shared_bytes,
                                    void** arguments, char* error, size_t capacity) {
    using namespace kiln_emulate;
    const Kernel* kernel = find(name);
    if (kernel == nullptr) {
        std::snprintf(error, capacity, "there is no kernel %s", name);
        return 1;
    }
    if (threads == 0 || threads > kernel->max_threads || threads > MAX_THREADS || shared_bytes > MAX_SHARED) {
        std::snprintf(error, capacity, "%s: a block of %u threads and %u bytes of shared memory; at most %u and %u", name,
                      threads, shared_bytes, kernel->max_threads, MAX_SHARED);
        return 1;
    }
    Launch& here = launch();
    here.kernel = kernel;
    here.arguments = arguments;
    here.threads = threads;
    here.failed = false;
    here.lanes.resize(MAX_THREADS);
    here.warps.resize(MAX_THREADS / WARP);
    here.shared.assign(shared_bytes + 16, POISON);
    const dim3 blocks(grid[0], grid[1], grid[2]);
    for (unsigned z = 0; z < blocks.z && !here.failed; z++)
        for (unsigned y = 0; y < blocks.y && !here.failed; y++)
            for (unsigned x = 0; x < blocks.x && !here.failed; x++) run_block(here, blocks, {x, y, z});
    if (!here.failed) return 0;
    std::snprintf(error, capacity, "%s", here.error);
    return 1;
}
