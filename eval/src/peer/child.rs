//! A peer's process: started within limits, spoken to in lines, ended whatever happens.
//!
//! In: a command and its limits. Out: events, or a [`Lost`] that says in one sentence how it ended. What it writes to
//! standard error goes to a log file.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::message::{Command, Event};
use crate::memory_cap::ChildCap;
use crate::sys;

/// Bytes of a line at most: no event of the protocol is near that.
const LINE_BYTES: u64 = 1 << 20;

/// Lines that are held for the runner at most: a process that says more waits.
const LINES_HELD: usize = 16;

/// Characters of a wrong line that are quoted.
const QUOTED: usize = 60;

/// Seconds that a process may take to end after it was told that nothing more is asked.
const FAREWELL: Duration = Duration::from_secs(2);

/// How often it is looked whether a process that says nothing still lives.
const GLANCE: Duration = Duration::from_secs(1);

/// Words in a log that tell that memory did not suffice, whatever the language.
const OUT_OF_MEMORY: [&str; 5] =
    ["MemoryError", "bad_alloc", "Cannot allocate memory", "memory allocation of", "out of memory"];

/// What a process could not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lost {
    /// In a sentence, without an end.
    pub reason: String,
    /// Whether the process is gone, or cannot be trusted any more; else it waits for the next command.
    pub gone: bool,
}

impl Lost {
    pub(super) fn gone(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), gone: true }
    }

    pub(super) fn here(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), gone: false }
    }
}

/// A line of the process, or what came instead.
enum Line {
    Text(Vec<u8>),
    TooLong,
    End,
}

/// A process that is ended when this is dropped.
pub(super) struct Child {
    process: std::process::Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Line>,
    log: PathBuf,
    /// Where its own words begin in the log: what is before is of earlier processes.
    log_from: u64,
    /// Bytes of memory that it may take, where there is a limit.
    limit: Option<u64>,
    cap: Option<ChildCap>,
    ended: Option<ExitStatus>,
}

impl Child {
    /// Starts `command`; its standard error goes to the end of the file `log`. Where a control group can be made, it holds
    /// the process to `memory` bytes, or to `otherwise` where none are named. Elsewhere `memory`, and `mapped` bytes of
    /// files, are a limit on its address space.
    pub(super) fn start(
        command: &[String],
        log: &Path,
        memory: Option<u64>,
        otherwise: u64,
        mapped: u64,
    ) -> Result<Self, Lost> {
        let name = command.first().cloned().unwrap_or_default();
        let stderr = File::options().create(true).append(true).open(log);
        let stderr = stderr.map_err(|error| Lost::gone(format!("{}: cannot write: {error}", log.display())))?;
        let log_from = stderr.metadata().map_or(0, |file| file.len());
        let cap = match ChildCap::new(memory.unwrap_or(otherwise)) {
            Ok(cap) => Some(cap),
            Err(refused) => {
                tracing::debug!("no control group for a peer: {refused}");
                None
            }
        };
        let mut starting = std::process::Command::new(&name);
        starting.args(command.iter().skip(1)).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
        let address_space = memory.filter(|_| cap.is_none()).map(|memory| memory.saturating_add(mapped));
        sys::confine(&mut starting, address_space);
        let mut process = starting
            .spawn()
            .map_err(|error| Lost::gone(format!("cannot start {name}: {error}; check the peer's command")))?;
        let limit = if cap.is_some() { Some(memory.unwrap_or(otherwise)) } else { memory };
        let stdin = process.stdin.take();
        let stdout = process.stdout.take();
        let (sender, lines) = mpsc::sync_channel(LINES_HELD);
        std::thread::spawn(move || {
            if let Some(stdout) = stdout {
                read_lines(BufReader::new(stdout), &sender);
            }
            // Nobody listens any more where the child was dropped.
            let _ = sender.send(Line::End);
        });
        let mut child = Self { process, stdin, lines, log: log.to_path_buf(), log_from, limit, cap, ended: None };
        if let Some(cap) = &child.cap
            && let Err(refused) = cap.take(child.process.id())
        {
            // It had no limit until now, and would have none.
            child.end();
            return Err(Lost::gone(format!("it cannot be held to its memory: {refused}")));
        }
        Ok(child)
    }

    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Says one line. That nobody hears it is told when the answer is waited for.
    pub(super) fn tell(&mut self, command: &Command) {
        if let (Some(stdin), Ok(mut line)) = (&mut self.stdin, serde_json::to_vec(command)) {
            line.push(b'\n');
            if stdin.write_all(&line).and_then(|()| stdin.flush()).is_err() {
                self.stdin = None;
            }
        }
    }

    /// The next event, within `limit`. A process that says anything else, or nothing, is ended.
    pub(super) fn hear(&mut self, limit: Duration, doing: &str) -> Result<Event, Lost> {
        let reason = match self.next_line(limit) {
            Ok(Line::Text(line)) => match serde_json::from_slice::<Event>(&line) {
                Ok(Event::Error { reason, out_of_memory: true }) => return Err(Lost::here(self.too_much(&reason))),
                Ok(Event::Error { reason, .. }) => return Err(Lost::here(format!("it said, {doing}: {reason}"))),
                Ok(event) => return Ok(event),
                Err(error) => format!("it wrote {} {doing}, where an event was expected: {error}", quote(&line)),
            },
            Ok(Line::TooLong) => format!("it wrote a line of more than {LINE_BYTES} bytes {doing}"),
            Ok(Line::End) | Err(RecvTimeoutError::Disconnected) => {
                return Err(Lost::gone(self.cause_of_death(doing)));
            }
            Err(RecvTimeoutError::Timeout) => {
                format!("it did not answer within {:.1} s {doing}, and was ended", limit.as_secs_f64())
            }
        };
        self.end();
        Err(Lost::gone(reason))
    }

    /// The next line within `limit`. A process that has ended says nothing more, whatever still holds its standard output.
    fn next_line(&mut self, limit: Duration) -> Result<Line, RecvTimeoutError> {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left.min(GLANCE)) {
                Err(RecvTimeoutError::Timeout) if self.has_ended() => {
                    // What it had said before may be on its way.
                    self.end();
                    return self.lines.recv_timeout(FAREWELL).or(Ok(Line::End));
                }
                Err(RecvTimeoutError::Timeout) if left > GLANCE => continue,
                outcome => return outcome,
            }
        }
    }

    fn has_ended(&self) -> bool {
        self.ended.is_some() || sys::has_ended(self.process.id())
    }

    /// How a process ended whose standard output did.
    fn cause_of_death(&mut self, doing: &str) -> String {
        let status = match self.wait(FAREWELL) {
            Some(status) => status,
            None => {
                self.end();
                return format!("it closed its standard output {doing}, and was ended");
            }
        };
        use std::os::unix::process::ExitStatusExt;
        let end = match (status.signal(), status.code()) {
            (Some(libc::SIGKILL), _) if self.cap.as_ref().is_some_and(ChildCap::out_of_memory) => {
                return self.too_much(&format!("the kernel ended it {doing}"));
            }
            (Some(libc::SIGKILL), _) => {
                format!("it was killed {doing} (SIGKILL), by the kernel for want of memory most likely")
            }
            (Some(signal), _) => format!("it was killed {doing} by signal {signal}"),
            (None, code) => format!("it ended {doing} with exit code {}", code.unwrap_or(-1)),
        };
        let log = last_words(&self.log, self.log_from);
        let last = log.back().map(String::as_str).unwrap_or_default();
        if self.limit.is_some() && log.iter().any(|line| OUT_OF_MEMORY.iter().any(|words| line.contains(words))) {
            return self.too_much(&format!("{end}; its last words: {last}"));
        }
        let words = if last.is_empty() { String::new() } else { format!("; its last words: {last}") };
        format!("{end}{words} (see {})", self.log.display())
    }

    fn too_much(&self, how: &str) -> String {
        match self.limit {
            Some(limit) => format!("out of memory: {how} (it may take {limit} bytes)"),
            None => format!("out of memory: {how}"),
        }
    }

    fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + limit;
        while !self.has_ended() {
            if Instant::now() >= until {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.end();
        self.ended
    }

    /// Lets the process end by itself: nothing more is asked.
    pub(super) fn farewell(mut self) {
        self.stdin = None;
        self.wait(FAREWELL);
    }

    /// Ends it, if it has not ended by itself, and whatever it has started.
    fn end(&mut self) {
        self.stdin = None;
        if self.ended.is_none() {
            // Its group's number is its own until it is waited for.
            sys::kill_group(self.process.id());
            self.ended = self.process.wait().ok();
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
    }
}

fn read_lines(mut stdout: impl BufRead, sender: &mpsc::SyncSender<Line>) {
    loop {
        let mut line = Vec::new();
        match (&mut stdout).take(LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(read) if read as u64 == LINE_BYTES && !line.ends_with(b"\n") => {
                let _ = sender.send(Line::TooLong);
                return;
            }
            Ok(_) if line.trim_ascii().is_empty() => continue,
            Ok(_) if sender.send(Line::Text(line)).is_err() => return,
            Ok(_) => (),
        }
    }
}

/// The beginning of a line, readable.
fn quote(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line.trim_ascii_end());
    let mut short: String = text.chars().take(QUOTED).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

/// The last lines of a log, from the byte `from` on, that say something.
fn last_words(log: &Path, from: u64) -> VecDeque<String> {
    const TAIL: u64 = 4096;
    let read = || -> std::io::Result<Vec<u8>> {
        use std::io::{Seek, SeekFrom};
        let mut file = File::open(log)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(TAIL).max(from)))?;
        let mut tail = Vec::new();
        file.take(TAIL).read_to_end(&mut tail)?;
        Ok(tail)
    };
    let tail = read().unwrap_or_default();
    let lines = String::from_utf8_lossy(&tail);
    let mut kept: VecDeque<String> = VecDeque::new();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        // Control characters of a progress bar are not for records.
        kept.push_back(line.chars().filter(|c| !c.is_control()).take(300).collect());
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_line_is_quoted_in_part() {
        assert_eq!(quote(b"Loading...\n"), "\"Loading...\"");
        assert_eq!(quote(&[b'x'; 100]).chars().count(), QUOTED + 3);
        assert_eq!(quote(b"\xff\x00"), "\"\u{fffd}\\0\"");
    }

    #[test]
    fn last_words_are_those_of_this_process() {
        let log = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(log.path(), "what(): std::bad_alloc\nfarewell\n").expect("written");
        assert_eq!(last_words(log.path(), 0), ["what(): std::bad_alloc", "farewell"]);
        assert_eq!(last_words(log.path(), 23), ["farewell"]);
        assert!(last_words(log.path(), 32).is_empty());
    }

    #[test]
    fn lines_are_read_up_to_a_length() {
        let (sender, lines) = mpsc::sync_channel(10);
        read_lines(&b"one\n\n  \ntwo"[..], &sender);
        let texts: Vec<Vec<u8>> = (lines.try_iter())
            .map(|line| match line {
                Line::Text(text) => text,
                _ => panic!("text was expected"),
            })
            .collect();
        assert_eq!(texts, [b"one\n".to_vec(), b"two".to_vec()]);
        read_lines(&vec![b'x'; LINE_BYTES as usize + 1][..], &sender);
        assert!(matches!(lines.try_recv(), Ok(Line::TooLong)));
    }
}
