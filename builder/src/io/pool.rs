//! Reads by a pool of threads that call `pread`: where io_uring is not allowed, or not known.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use super::transport::{Done, Read, Transport};

/// Threads of a pool. A drive wants depth, and a thread that waits for it costs no processor: 16 of them brought 86,000
/// pages a second where one brought 9,300.
const THREADS: usize = 16;

/// Threads that read one file for all its queues.
pub(super) struct ReadPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    file: File,
    jobs: Mutex<Jobs>,
    more: Condvar,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<(Read, Arc<Mailbox>)>,
    over: bool,
}

/// Where a queue finds the reads that are over.
#[derive(Default)]
struct Mailbox {
    done: Mutex<VecDeque<Done>>,
    arrived: Condvar,
}

/// No thread panics while it holds one of these locks, and what they guard is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl ReadPool {
    /// Starts the threads.
    pub(super) fn start(file: &File) -> io::Result<Self> {
        let shared = Arc::new(Shared { file: file.try_clone()?, jobs: Mutex::default(), more: Condvar::new() });
        let mut pool = Self { shared, threads: Vec::with_capacity(THREADS) };
        for number in 0..THREADS {
            let shared = Arc::clone(&pool.shared);
            let name = format!("kiln-read-{number}");
            match std::thread::Builder::new().name(name).stack_size(64 << 10).spawn(move || shared.serve()) {
                Ok(thread) => pool.threads.push(thread),
                // A few do as well.
                Err(_) if number > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(pool)
    }

    /// A transport for one queue.
    pub(super) fn client(&self) -> PoolClient {
        PoolClient {
            shared: Arc::clone(&self.shared),
            mailbox: Arc::default(),
            unsent: Vec::new(),
            told: VecDeque::new(),
        }
    }
}

impl Drop for ReadPool {
    fn drop(&mut self) {
        lock(&self.shared.jobs).over = true;
        self.shared.more.notify_all();
        for thread in self.threads.drain(..) {
            // A thread of the pool does not panic; if one did, there is nothing more to end.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Reads until the pool is over and nothing waits.
    fn serve(&self) {
        loop {
            let mut jobs = lock(&self.jobs);
            let (read, mailbox) = loop {
                match jobs.waiting.pop_front() {
                    Some(job) => break job,
                    None if jobs.over => return,
                    None => jobs = self.more.wait(jobs).unwrap_or_else(|poisoned| poisoned.into_inner()),
                }
            };
            drop(jobs);
            // SAFETY: the window is lent to the transport until its `Done` is told, and this thread alone has it.
            let bytes = unsafe { read.into.as_mut_slice() };
            let result = self.file.read_at(bytes, read.offset);
            lock(&mailbox.done).push_back(Done { tag: read.tag, result });
            mailbox.arrived.notify_one();
        }
    }
}

/// The pool as one queue uses it.
pub(super) struct PoolClient {
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
    unsent: Vec<Read>,
    told: VecDeque<Done>,
}

impl Transport for PoolClient {
    fn start(&mut self, read: Read) {
        self.unsent.push(read);
    }

    fn enter(&mut self, at_least: usize) -> io::Result<()> {
        let sent = self.unsent.len();
        if sent > 0 {
            let mut jobs = lock(&self.shared.jobs);
            jobs.waiting.extend(self.unsent.drain(..).map(|read| (read, Arc::clone(&self.mailbox))));
        }
        for _ in 0..sent.min(THREADS) {
            self.shared.more.notify_one();
        }
        let mut done = lock(&self.mailbox.done);
        while self.told.len() + done.len() < at_least {
            done = self.mailbox.arrived.wait(done).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        self.told.append(&mut done);
        Ok(())
    }

    fn completed(&mut self) -> Option<Done> {
        self.told.pop_front()
    }
}
