//! Does what a chapter tells its reader to do, in a folder of its own.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::NEEDS;
use super::chapter::{Block, Chapter};
use super::flags::commands;
use super::shown::difference;

/// No command of the book takes that long.
const PATIENCE: Duration = Duration::from_secs(120);

/// The port that the book names; the tests take a free one in its place.
const PORT: &str = "8080";

/// Where a chapter is played.
struct Stage {
    folder: TempDir,
    port: String,
    /// Servers that a command left behind; they end with the stage.
    servers: Vec<Child>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.servers.iter_mut().for_each(end);
    }
}

/// Ends a command with all that it started: they are a group of processes.
fn end(child: &mut Child) {
    let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).stderr(Stdio::null()).status();
    let _ = child.wait();
}

/// All blocks of a chapter, in order.
pub fn check(chapter: &Chapter, problems: &mut Vec<String>) {
    let mut stage = None;
    for block in &chapter.blocks {
        let at = |line: usize, what: String| format!("{}:{line}: {what}", chapter.file);
        if let Some(needed) = block.value("needs") {
            if !NEEDS.contains(&needed) {
                problems.push(at(block.line, format!("needs={needed} is not among {}", NEEDS.join(", "))));
            }
            continue;
        }
        match block.language() {
            "console" => {
                let stage = stage.get_or_insert_with(Stage::new);
                problems.extend(stage.play(block).into_iter().map(|(line, what)| at(line, what)));
            }
            "toml" => {
                if let Some(name) = block.value("file") {
                    stage.get_or_insert_with(Stage::new).write(name, &block.text());
                } else if let Err(why) = experiment(block) {
                    problems.push(at(block.line, why));
                }
            }
            "sh" | "bash" | "shell" => {
                let why = format!("{} is not run: use console, with $ before each command", block.language());
                problems.push(at(block.line, why));
            }
            _ => (),
        }
    }
}

/// Whether a block is an experiment's file, or lines of one.
fn experiment(block: &Block) -> Result<(), String> {
    let mut text = block.text();
    if block.is("part") {
        let lacks = |key: &str| !text.lines().any(|line| line.starts_with(key));
        let required = [("dataset", "dataset = \"demo\""), ("modes", "modes = [\"latency-1\"]")];
        let head: Vec<&str> = required.iter().filter(|(key, _)| lacks(key)).map(|(_, line)| *line).collect();
        let tail = if lacks("[[engine]]") { "\n[[engine]]\nindex = \"vamana\"\n" } else { "" };
        text = format!("{}\n{text}{tail}", head.join("\n"));
    }
    let read = kiln_eval::experiment::parse(Path::new("run.toml"), &text, true);
    read.map(|_| ()).map_err(|wrong| wrong.to_string())
}

impl Stage {
    fn new() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        let folder = tempfile::tempdir().expect("temporary folder");
        Self { folder, port: free.port().to_string(), servers: Vec::new() }
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).expect("written");
    }

    /// Runs the commands of a block and compares what they print. In: what is wrong, by line.
    fn play(&mut self, block: &Block) -> Vec<(usize, String)> {
        let commands = commands(&block.lines);
        let starts: Vec<usize> = commands.iter().map(|(line, _)| *line).collect();
        let mut problems = Vec::new();
        for (number, (line, command)) in commands.iter().enumerate() {
            let end = starts.get(number + 1).copied().unwrap_or(usize::MAX);
            let lines = block.lines.iter().filter(|(at, _)| (*line..end).contains(at));
            // Behind the command and what a backslash joins to it.
            let mut typed = true;
            let shown: Vec<&str> = lines
                .filter_map(|(_, text)| {
                    let was = typed;
                    typed &= text.ends_with('\\');
                    (!was).then_some(text.as_str())
                })
                .collect();
            let last = number + 1 == commands.len();
            let expected = block.value("exit").filter(|_| last).map_or(0, |code| code.parse().expect("an exit code"));
            if let Err(why) = self.run(command, expected, &shown, block.is("figures")) {
                problems.push((*line, format!("{command}: {why}")));
                break;
            }
        }
        problems
    }

    fn run(&mut self, command: &str, expected: i32, shown: &[&str], figures: bool) -> Result<(), String> {
        let command = command.replace(PORT, &self.port);
        if command.starts_with("curl ")
            && self.shell("command -v curl").stdout(Stdio::null()).status().is_ok_and(|s| !s.success())
        {
            eprintln!("SKIPPED: there is no curl for: {command}");
            return Ok(());
        }
        if let Some(server) = command.trim_end().strip_suffix('&') {
            return self.serve(server);
        }
        let (status, out, err) = self.spawn(&command)?;
        let code = status.code();
        if code != Some(expected) {
            return Err(format!("exit code {}, not {expected}: {err}", code.map_or("none".into(), |c| c.to_string())));
        }
        if shown.is_empty() {
            return Ok(());
        }
        let error = err.lines().skip_while(|line| !line.starts_with("error: "));
        let printed: Vec<String> = out.lines().chain(error).map(|line| line.replace(&self.port, PORT)).collect();
        let printed: Vec<&str> = printed.iter().map(String::as_str).collect();
        difference(shown, &printed, figures).map_or(Ok(()), |why| Err(format!("{why}\n{}", printed.join("\n"))))
    }

    fn shell(&self, command: &str) -> Command {
        use std::os::unix::process::CommandExt as _;
        let kiln = assert_cmd::cargo::cargo_bin!("kiln").parent().expect("a folder").to_path_buf();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(std::iter::once(kiln).chain(std::env::split_paths(&path))).expect("a PATH");
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).current_dir(self.folder.path()).env("PATH", path);
        shell.env("KILN_DATA", self.folder.path().join("cache")).env_remove("KILN_LOG").env_remove("KILN_TOKEN");
        shell.stdin(Stdio::null()).process_group(0);
        shell
    }

    /// Runs a command to its end, and gives back what it printed.
    fn spawn(&self, command: &str) -> Result<(ExitStatus, String, String), String> {
        let path = |name: &str| self.folder.path().join(name);
        let create = |name: &str| std::fs::File::create(path(name)).expect("a file for what is printed");
        let mut shell = self.shell(command);
        shell.stdout(create(".stdout")).stderr(create(".stderr"));
        let mut child = shell.spawn().expect("a shell");
        let began = Instant::now();
        let status = loop {
            match child.try_wait().expect("the child can be waited for") {
                Some(status) => break status,
                None if began.elapsed() > PATIENCE => {
                    end(&mut child);
                    return Err(format!("it did not end within {} s", PATIENCE.as_secs()));
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let read =
            |name: &str| String::from_utf8_lossy(&std::fs::read(path(name)).expect("what was printed")).into_owned();
        Ok((status, read(".stdout"), read(".stderr")))
    }

    /// Starts a server, and waits until it takes connections.
    fn serve(&mut self, command: &str) -> Result<(), String> {
        let listen = format!("{command} --listen 127.0.0.1:{}", self.port);
        let command = if command.contains("--listen") { command.to_string() } else { listen };
        let log = std::fs::File::create(self.folder.path().join(".server")).expect("a log");
        let mut shell = self.shell(&format!("exec {command}"));
        shell.stdout(Stdio::null()).stderr(log);
        self.servers.push(shell.spawn().expect("a shell"));
        let began = Instant::now();
        let server = self.servers.last_mut().expect("just started");
        while TcpStream::connect(format!("127.0.0.1:{}", self.port)).is_err() {
            if server.try_wait().expect("can be waited for").is_some() || began.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(self.folder.path().join(".server")).unwrap_or_default();
                return Err(format!("the server does not take connections: {log}"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}
