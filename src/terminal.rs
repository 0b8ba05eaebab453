//! What the user sees of long work: logs and progress on standard error.
//!
//! On a terminal a bar with an estimate; elsewhere a plain line when a stage begins and every ten seconds.

use std::sync::Mutex;
#[cfg(feature = "serve")]
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use kiln_kernels::Progress;
use tracing_subscriber::EnvFilter;

#[cfg(feature = "serve")]
use crate::commands::serve::LogFormat;

/// The bar on the terminal, so that log lines are printed above it and not through it.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Keeps Mesa's layer that sorts Vulkan devices from asking a display which does not exist, and from writing an error about
/// it to standard error. Call it first in `main`.
pub fn expect_no_display() {
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() && std::env::var_os("NODEVICE_SELECT").is_none() {
        // SAFETY: nothing else runs yet that could read the environment at the same time.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}

/// What is logged: `KILN_LOG` overrides the two switches (`KILN_LOG=debug`).
fn filter(quiet: bool, verbose: bool) -> EnvFilter {
    let default = if quiet {
        "warn"
    } else if verbose {
        "debug"
    } else {
        "info"
    };
    EnvFilter::try_from_env("KILN_LOG").unwrap_or_else(|_| EnvFilter::new(default))
}

/// Sends logs to standard error.
pub fn start_logging(quiet: bool, verbose: bool) {
    tracing_subscriber::fmt()
        .with_env_filter(filter(quiet, verbose))
        .with_writer(|| LogLine(Vec::new()))
        .with_target(false)
        .without_time()
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
}

/// Sends the logs of a server to standard error, with times, from a thread of their own: where nobody takes them, lines are
/// dropped and nobody waits.
#[cfg(feature = "serve")]
pub fn start_server_logging(quiet: bool, verbose: bool, format: LogFormat) {
    let (sender, lines) = mpsc::sync_channel(LOG_LINES);
    std::thread::spawn(move || {
        use std::io::Write as _;
        for line in lines {
            match line {
                // A full disk or a closed pipe: there is nowhere left to report that.
                ForLog::Line(line) => drop(std::io::stderr().write_all(&line)),
                ForLog::End(written) => drop(written.send(())),
            }
        }
    });
    let _ = SERVER_LOG.set(sender.clone());
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter(quiet, verbose))
        .with_writer(move || ServerLine { line: Vec::new(), sender: sender.clone() })
        .with_target(false);
    match format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
}

/// Log lines of a server that wait to be written, at most.
#[cfg(feature = "serve")]
const LOG_LINES: usize = 4096;

/// Where a server's log lines go, if there is a server.
#[cfg(feature = "serve")]
static SERVER_LOG: OnceLock<mpsc::SyncSender<ForLog>> = OnceLock::new();

#[cfg(feature = "serve")]
enum ForLog {
    Line(Vec<u8>),
    /// Everything before it is written.
    End(mpsc::Sender<()>),
}

/// Waits until a server's log is written, or for a second where nobody takes it. Call it before the program ends.
#[cfg(feature = "serve")]
pub fn finish_server_logging() {
    let Some(log) = SERVER_LOG.get() else { return };
    let (sender, written) = mpsc::channel();
    if log.try_send(ForLog::End(sender)).is_ok() {
        let _ = written.recv_timeout(Duration::from_secs(1));
    }
}

/// One log line of a server, handed over whole when dropped.
#[cfg(feature = "serve")]
struct ServerLine {
    line: Vec<u8>,
    sender: mpsc::SyncSender<ForLog>,
}

#[cfg(feature = "serve")]
impl std::io::Write for ServerLine {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(feature = "serve")]
impl Drop for ServerLine {
    fn drop(&mut self) {
        let _ = self.sender.try_send(ForLog::Line(std::mem::take(&mut self.line)));
    }
}

/// Prints the error that ends the program. Unlike `eprintln!` it does not panic where standard error is closed.
pub fn tell_error(error: &anyhow::Error) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "error: {}", told(error));
}

/// One log line, printed whole when dropped.
struct LogLine(Vec<u8>);

impl std::io::Write for LogLine {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for LogLine {
    fn drop(&mut self) {
        use std::io::Write as _;
        let print = || {
            // There is nowhere left to report that standard error is closed.
            let _ = std::io::stderr().write_all(&self.0);
        };
        let bar = BAR.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        match bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

/// An error with its causes in one line; a cause that is told already is not told again.
fn told(error: &anyhow::Error) -> String {
    let mut line = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

/// Shows stages of work on the terminal, or as plain lines.
pub struct TerminalProgress {
    interactive: bool,
    plain: Mutex<Option<PlainStage>>,
}

struct PlainStage {
    name: String,
    total: u64,
    done: u64,
    began: Instant,
    spoke: Instant,
}

/// Time between plain lines of one stage.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

impl TerminalProgress {
    pub fn new() -> Self {
        Self { interactive: std::io::IsTerminal::is_terminal(&std::io::stderr()), plain: Mutex::new(None) }
    }

    fn end_stage(&self) {
        if let Some(bar) = BAR.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take() {
            bar.finish_and_clear();
        }
        if let Some(stage) = self.plain.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take() {
            let seconds = stage.began.elapsed().as_secs_f64();
            if seconds >= 1.0 {
                tracing::info!("{}: done in {seconds:.1} s", stage.name);
            }
        }
    }
}

impl Progress for TerminalProgress {
    fn stage(&self, name: &str, total: u64) {
        self.end_stage();
        if !self.interactive {
            tracing::info!("{name} ...");
            let now = Instant::now();
            let stage = PlainStage { name: name.to_string(), total, done: 0, began: now, spoke: now };
            *self.plain.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(stage);
            return;
        }
        let bar = if total == 0 { ProgressBar::new_spinner() } else { ProgressBar::new(total) };
        let template = match total {
            0 => "{spinner} {msg} {elapsed}",
            _ => "{msg:>10} {wide_bar} {human_pos}/{human_len}  {per_sec}  {eta} left",
        };
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(name.to_string());
        bar.enable_steady_tick(Duration::from_millis(120));
        *BAR.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(bar);
    }

    fn advance(&self, units: u64) {
        if self.interactive {
            if let Some(bar) = BAR.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).as_ref() {
                bar.inc(units);
            }
            return;
        }
        let mut plain = self.plain.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let Some(stage) = plain.as_mut() else { return };
        stage.done += units;
        if stage.spoke.elapsed() < PLAIN_INTERVAL || stage.done == 0 || stage.total == 0 {
            return;
        }
        stage.spoke = Instant::now();
        let elapsed = stage.began.elapsed().as_secs_f64();
        let left = elapsed * (stage.total.saturating_sub(stage.done)) as f64 / stage.done as f64;
        let percent = 100.0 * stage.done as f64 / stage.total as f64;
        let (name, line) = (stage.name.clone(), format!("{percent:.0}%, {elapsed:.0} s, about {left:.0} s left"));
        drop(plain);
        tracing::info!("{name}: {line}");
    }

    fn finish(&self) {
        self.end_stage();
    }
}

impl Drop for TerminalProgress {
    fn drop(&mut self) {
        self.end_stage();
    }
}
