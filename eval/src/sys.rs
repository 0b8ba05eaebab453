//! What the measurements ask of the operating system: which CPUs there are, to stay on one of them, to be woken on
//! time, memory near a CPU, to own a folder, what the page cache holds of a file, and to limit, pin and end another
//! process. All `unsafe` of this crate is here.
//!
//! Elsewhere than on Linux no CPU is reported, and so nothing is pinned.

use std::fs::File;
use std::io;

/// The CPUs that this process may run on, ascending.
#[cfg(target_os = "linux")]
pub(crate) fn allowed_cpus() -> Vec<usize> {
    // SAFETY: an all-zero cpu_set_t is a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most the size given into the set; pid 0 is the calling thread.
    let status = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) };
    if status != 0 {
        return Vec::new();
    }
    let capacity = 8 * size_of::<libc::cpu_set_t>();
    // SAFETY: every number below the capacity indexes a bit inside the set.
    (0..capacity).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

/// Keeps the calling thread on one CPU for the rest of its life.
///
/// # Errors
/// When the system refuses, as some sandboxes do.
#[cfg(target_os = "linux")]
pub(crate) fn pin_thread(cpu: usize) -> io::Result<()> {
    set_affinity(0, &[cpu])
}

/// Keeps a thread (0: the calling one) on these CPUs.
#[cfg(target_os = "linux")]
fn set_affinity(thread: libc::pid_t, cpus: &[usize]) -> io::Result<()> {
    // SAFETY: an all-zero cpu_set_t is a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &cpu in cpus {
        if cpu >= 8 * size_of::<libc::cpu_set_t>() {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        // SAFETY: the CPU was checked to lie inside the set.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: the kernel only reads the set, whose size is given; the thread's number is no pointer.
    match unsafe { libc::sched_setaffinity(thread, size_of::<libc::cpu_set_t>(), &set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Keeps all threads of a process on these CPUs; those that it makes later are on those of their maker.
///
/// # Errors
/// When the process is gone, or the system refuses.
#[cfg(target_os = "linux")]
pub(crate) fn pin_process(process: u32, cpus: &[usize]) -> io::Result<()> {
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let name = thread?.file_name();
        let Some(thread) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        match set_affinity(thread, cpus) {
            // A thread may end meanwhile.
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(error),
            _ => (),
        }
    }
    Ok(())
}

/// Has memory that the calling thread touches first come from this node where there is some left, or from anywhere.
/// What the thread starts inherits that.
///
/// # Errors
/// When the system refuses, as some sandboxes do.
#[cfg(target_os = "linux")]
pub(crate) fn prefer_memory_of(node: Option<usize>) -> io::Result<()> {
    const BITS: usize = libc::c_ulong::BITS as usize;
    let mut mask = [0 as libc::c_ulong; 16];
    let mode = match node {
        None => libc::MPOL_DEFAULT,
        Some(node) if node < BITS * mask.len() => {
            mask[node / BITS] |= 1 << (node % BITS);
            libc::MPOL_PREFERRED
        }
        Some(_) => return Err(io::Error::from(io::ErrorKind::InvalidInput)),
    };
    let pointer = if node.is_some() { mask.as_ptr() } else { std::ptr::null() };
    let bits = if node.is_some() { BITS * mask.len() } else { 0 };
    // SAFETY: the kernel only reads the mask, of as many bits as are given; without a node it gets none.
    match unsafe { libc::syscall(libc::SYS_set_mempolicy, mode as libc::c_long, pointer, bits) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has a command start as the leader of a process group of its own, which ends when this thread does, with at most so
/// many bytes of address space.
#[cfg(target_os = "linux")]
pub(crate) fn confine(command: &mut std::process::Command, address_space: Option<u64>) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
    // SAFETY: between fork and exec only system calls are made, which take numbers and a struct on the stack.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong);
            if let Some(bytes) = address_space {
                let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
                if libc::setrlimit(libc::RLIMIT_AS, &limit) != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            // A process that dies for want of memory leaves no core of that size.
            let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            libc::setrlimit(libc::RLIMIT_CORE, &none);
            Ok(())
        });
    }
}

/// Ends the process group that a process leads, at once. The process must not have been waited for.
pub(crate) fn kill_group(leader: u32) {
    if let Ok(group) = libc::pid_t::try_from(leader)
        && group > 1
    {
        // SAFETY: takes numbers only. The group is that of a child that is not reaped, so that its number is no other's.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
}

/// Whether a child has ended; it is not reaped by this, so that its number stays its own.
pub(crate) fn has_ended(child: u32) -> bool {
    // SAFETY: `waitid` writes to the structure that it is given, for which all zeros is a value, and to nothing else.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let how = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // An error means that it was waited for already.
        libc::waitid(libc::P_PID, child, &mut info, how) != 0 || info.si_signo != 0
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn allowed_cpus() -> Vec<usize> {
    Vec::new()
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn pin_thread(_cpu: usize) -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn pin_process(_process: u32, _cpus: &[usize]) -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn prefer_memory_of(_node: Option<usize>) -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn confine(command: &mut std::process::Command, _address_space: Option<u64>) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
}

/// Lets the calling thread be woken when it asked to be, and not up to 50 us later so that wake-ups can be joined.
#[cfg(target_os = "linux")]
pub(crate) fn wake_on_time() {
    // SAFETY: this option takes a number of nanoseconds and no pointers, and concerns the calling thread alone. Where it is
    // refused the thread is woken as before.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong);
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn wake_on_time() {}

/// Takes the file for this process until it is closed; false when another process holds it.
///
/// # Errors
/// When the filesystem has no locks.
pub(crate) fn try_lock(file: &File) -> io::Result<bool> {
    use std::os::fd::AsRawFd;
    // SAFETY: flock takes no pointers, and the descriptor is open for as long as `file` is borrowed.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock { Ok(false) } else { Err(error) }
}

/// Bytes of the first `length` of `file` that lie in the page cache, whole pages except the last.
///
/// # Errors
/// When the system does not tell.
#[cfg(target_os = "linux")]
pub(crate) fn resident_bytes(file: &File, length: u64) -> io::Result<u64> {
    use std::os::fd::AsRawFd;
    let bytes = usize::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    if bytes == 0 {
        return Ok(0);
    }
    // SAFETY: sysconf takes no pointers.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096).max(1);
    let mut pages = vec![0u8; bytes.div_ceil(page)];
    // SAFETY: a new mapping at an address of the kernel's choice; it is never read or written, so that a file cut short
    // meanwhile cannot fault, and it is unmapped below with the same length.
    let map =
        unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if map == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `map` is the start of a mapping of `bytes` bytes, and `pages` has a byte for each of its pages.
    let told = match unsafe { libc::mincore(map, bytes, pages.as_mut_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: the mapping was made above and nothing refers to it.
    unsafe { libc::munmap(map, bytes) };
    told?;
    let resident = |number: usize| pages[number] & 1 == 1;
    let last = pages.len() - 1;
    let whole = (0..last).filter(|&number| resident(number)).count() * page;
    Ok((whole + if resident(last) { bytes - last * page } else { 0 }) as u64)
}

/// Asks the kernel to forget what it caches of `file`.
///
/// # Errors
/// When it refuses.
#[cfg(target_os = "linux")]
pub(crate) fn drop_from_cache(file: &File) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: posix_fadvise takes no pointers, and the descriptor is open for as long as `file` is borrowed.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn resident_bytes(_file: &File, _length: u64) -> io::Result<u64> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn drop_from_cache(_file: &File) -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_pinned_thread_stays_on_its_cpu_and_others_stay_free() {
        let before = allowed_cpus();
        let &last = before.last().expect("at least one CPU");
        let inside = std::thread::spawn(move || pin_thread(last).map(|()| allowed_cpus())).join().expect("no panic");
        assert_eq!(inside.expect("pinning is allowed"), [last]);
        assert_eq!(allowed_cpus(), before);
        assert!(pin_thread(usize::MAX).is_err());
    }

    #[test]
    fn a_lock_is_exclusive_until_closed() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("lock");
        let first = File::create(&path).expect("created");
        let second = File::open(&path).expect("opened");
        assert!(try_lock(&first).expect("locks"));
        assert!(!try_lock(&second).expect("locks"));
        drop(first);
        assert!(try_lock(&second).expect("locks"));
    }
}
