// Fibers: stacks that one OS thread runs in turn. On x86-64 a switch saves the registers that a function must keep;
// elsewhere, and with -DKILN_EMULATE_UCONTEXT, it is ucontext's. AddressSanitizer is told of every switch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include <sys/mman.h>
#include <unistd.h>

#if defined(__x86_64__) && !defined(KILN_EMULATE_UCONTEXT)
#define KILN_OWN_SWITCH
#else
#include <ucontext.h>
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace kiln_emulate {

constexpr size_t STACK_BYTES = 256 * 1024;

/// Stacks of up to 1024 fibers, each above a page that must not be touched; memory is used where it is written.
class Stacks {
public:
    Stacks() : page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))) {
        void* mapped = mmap(nullptr, COUNT * (STACK_BYTES + page_), PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapped == MAP_FAILED) {
            std::perror("the emulator's stacks");
            std::abort();
        }
        memory_ = static_cast<char*>(mapped);
        for (size_t i = 0; i < COUNT; i++) mprotect(memory_ + i * (STACK_BYTES + page_), page_, PROT_NONE);
    }
    ~Stacks() { munmap(memory_, COUNT * (STACK_BYTES + page_)); }
    Stacks(const Stacks&) = delete;
    Stacks& operator=(const Stacks&) = delete;

    char* bottom(size_t i) { return memory_ + i * (STACK_BYTES + page_) + page_; }

private:
    static constexpr size_t COUNT = 1024;
    size_t page_;
    char* memory_;
};

struct Fiber {
#ifdef KILN_OWN_SWITCH
    void* stack_pointer = nullptr;
#else
    ucontext_t context;
#endif
    // Known to AddressSanitizer; the scheduler's are learnt at the first switch away from it.
    const void* bottom = nullptr;
    size_t bytes = 0;
    void* fake_stack = nullptr;
};

#ifdef KILN_OWN_SWITCH
/// Saves the caller's registers and stack pointer to `*from`, and goes on where `to` was saved.
extern "C" void kiln_emulate_switch(void** from, void* to);
asm(R"(
.text
.type kiln_emulate_switch, @function
kiln_emulate_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size kiln_emulate_switch, .-kiln_emulate_switch
)");
#endif

/// Ends a switch into `into`; `from`, where given, learns which stack was left.
inline void finish_switch([[maybe_unused]] Fiber& into, [[maybe_unused]] Fiber* from) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(into.fake_stack, from ? &from->bottom : nullptr, from ? &from->bytes : nullptr);
#endif
}

/// Makes a fiber on stack `i` that will run `entry`, which must call finish_switch first and never return. It must not be
/// moved afterwards: a ucontext points into itself.
inline void start_fiber(Fiber& fiber, Stacks& stacks, size_t i, void (*entry)()) {
    fiber.bottom = stacks.bottom(i);
    fiber.bytes = STACK_BYTES;
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(stacks.bottom(i), STACK_BYTES);  // an abandoned fiber leaves its frames' marks
#endif
#ifdef KILN_OWN_SWITCH
    // Six registers, then the entry as return address; there the stack is 8 past a multiple of 16, as after a call.
    auto* top = reinterpret_cast<void**>(stacks.bottom(i) + STACK_BYTES) - 2;
    *top = reinterpret_cast<void*>(entry);
    fiber.stack_pointer = top - 6;
#else
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stacks.bottom(i);
    fiber.context.uc_stack.ss_size = STACK_BYTES;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, entry, 0);
#endif
}

/// From one fiber to another; `last` says that `from` never comes back.
inline void switch_fiber(Fiber& from, Fiber& to, [[maybe_unused]] bool last) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(last ? nullptr : &from.fake_stack, to.bottom, to.bytes);
#endif
#ifdef KILN_OWN_SWITCH
    kiln_emulate_switch(&from.stack_pointer, to.stack_pointer);
#else
    swapcontext(&from.context, &to.context);
#endif
    finish_switch(from, nullptr);
}

}  // namespace kiln_emulate
