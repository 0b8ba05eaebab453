//! Bakes into the crate what cannot be asked at run time: the compiler, its flags, and the commit.
//!
//! Works outside a git checkout too: the commit is then unknown.

use std::path::Path;
use std::process::Command;

/// What the figures of a benchmark depend on, relative to the workspace's root.
const SOURCES: [&str; 6] = ["Cargo.toml", "Cargo.lock", "kernels", "datasets", "builder", "eval"];

fn main() {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let root = Path::new(&variable("CARGO_MANIFEST_DIR")).join("..");

    let rustc = output(Command::new(variable("RUSTC")).arg("-V")).unwrap_or_else(|| "unknown".to_string());
    println!("cargo::rustc-env=KILN_RUSTC={rustc}");
    let flags = variable("CARGO_ENCODED_RUSTFLAGS").replace('\x1f', " ");
    let flags = if flags.is_empty() { "no extra flags".to_string() } else { flags };
    let (target, profile, level) = (variable("TARGET"), variable("PROFILE"), variable("OPT_LEVEL"));
    println!("cargo::rustc-env=KILN_BUILD_FLAGS={target}, {profile}, opt-level {level}, {flags}");

    let git = |arguments: &[&str]| output(Command::new("git").arg("-C").arg(&root).args(arguments));
    if let Some(commit) = git(&["rev-parse", "HEAD"]) {
        println!("cargo::rustc-env=KILN_COMMIT={commit}");
        let mut status = vec!["status", "--porcelain", "--"];
        status.extend(SOURCES);
        if let Some(changes) = git(&status) {
            println!("cargo::rustc-env=KILN_DIRTY={}", !changes.is_empty());
        }
    }

    // A commit moves the log of HEAD; an edit touches a source. A path that does not exist would mean "always".
    let watched = SOURCES.map(|source| root.join(source)).into_iter().chain([root.join(".git/logs/HEAD")]);
    for path in watched.filter(|path| path.exists()) {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}

/// The trimmed standard output of a command that succeeds.
fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_string())
}
