//! `kiln completions`: shell completion scripts and man pages, made from the command line itself.

use std::path::PathBuf;

use anyhow::Context;
use clap_complete::Shell;

use super::print;

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  kiln completions bash > /etc/bash_completion.d/kiln\n  kiln completions man --out share/man/man1"
)]
pub struct Args {
    /// bash, zsh, fish, elvish, powershell; or man, for man pages
    #[arg(value_name = "SHELL", value_parser = parse_target)]
    target: Target,
    /// Folder for man pages
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
}

#[derive(Clone, Copy)]
enum Target {
    Shell(Shell),
    Man,
}

fn parse_target(text: &str) -> Result<Target, String> {
    if text == "man" {
        return Ok(Target::Man);
    }
    text.parse().map(Target::Shell).map_err(|_| "use bash, zsh, fish, elvish, powershell or man".to_string())
}

pub fn run(args: Args, mut command: clap::Command) -> anyhow::Result<()> {
    match args.target {
        Target::Shell(shell) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, "kiln", &mut script);
            print(String::from_utf8_lossy(&script).trim_end())
        }
        Target::Man => {
            std::fs::create_dir_all(&args.out).with_context(|| format!("{}: cannot create", args.out.display()))?;
            clap_mangen::generate_to(command, &args.out)
                .with_context(|| format!("{}: cannot write man pages", args.out.display()))?;
            print(&format!("man pages: {}", args.out.display()))
        }
    }
}
