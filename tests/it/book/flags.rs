//! Whether the commands and flags of `kiln` that a text names exist, by what the program itself says.

use std::collections::BTreeMap;
use std::process::Command;

use super::chapter::{Chapter, repository};

/// What the program says of itself.
pub struct Flags {
    /// The help of a path of commands.
    help: BTreeMap<Vec<String>, String>,
}

impl Flags {
    pub fn new() -> Self {
        Self { help: BTreeMap::new() }
    }

    fn help(&mut self, path: &[String]) -> &str {
        self.help.entry(path.to_vec()).or_insert_with(|| said(&[path, &["--help".to_string()]].concat()).1)
    }

    /// What is wrong with the arguments of a call, if anything. Of a `whole` call the program must understand each value.
    fn wrong_with(&mut self, arguments: &[String], whole: bool) -> Option<String> {
        let mut path: Vec<String> = Vec::new();
        for word in arguments.iter().filter(|word| !word.starts_with('-')) {
            let help = self.help(&path);
            let commands = help.split("Commands:\n").nth(1).unwrap_or("").split("\n\n").next().unwrap_or("");
            let known = commands.lines().any(|line| line.split_whitespace().next() == Some(word));
            match (known, commands.is_empty(), path.is_empty()) {
                (true, ..) => path.push(word.clone()),
                (false, false, true) => return Some(format!("there is no command {word}")),
                _ => break,
            }
        }
        let help = self.help(&path);
        for flag in arguments.iter().filter(|word| word.starts_with("--")) {
            let name = flag.split('=').next().expect("a first part");
            let is_end = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '-');
            if !help.match_indices(name).any(|(at, _)| is_end(&help[at + name.len()..])) {
                return Some(format!("kiln {} has no {name}", path.join(" ")));
            }
        }
        // Arguments are understood one by one before help is given; whether they go together is not looked at.
        let (code, told) = said(&[arguments, &["--help".to_string()]].concat());
        (whole && code != Some(0)).then_some(told)
    }
}

/// The exit code, and everything that is printed.
fn said(arguments: &[String]) -> (Option<i32>, String) {
    let output =
        Command::new(assert_cmd::cargo::cargo_bin!("kiln")).args(arguments).output().expect("the program runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// All calls of `kiln` in the code of a chapter and in `code` of its text.
pub fn check(chapter: &Chapter, flags: &mut Flags, problems: &mut Vec<String>) {
    let mut wrong = |line: usize, call: &[String], whole: bool| {
        if let Some(why) = flags.wrong_with(call, whole) {
            problems.push(format!("{}:{line}: kiln {}: {}", chapter.file, call.join(" "), why.trim()));
        }
    };
    for block in &chapter.blocks {
        let commands = match block.language() {
            "console" => commands(&block.lines),
            "" => joined(block.lines.iter().map(|(line, text)| (*line, without_remark(text)))),
            _ => continue,
        };
        for (line, command) in commands {
            calls(&command).iter().for_each(|call| wrong(line, call, true));
        }
    }
    for (line, text) in &chapter.prose {
        for code in text.split('`').skip(1).step_by(2) {
            calls(code).iter().for_each(|call| wrong(*line, call, false));
        }
    }
    for block in &chapter.blocks {
        for (line, text) in &block.lines {
            let scripts = text.split_whitespace().filter(|word| word.starts_with("scripts/") && word.contains('.'));
            let lost = scripts.filter(|script| !repository(script).exists());
            problems.extend(lost.map(|script| format!("{}:{line}: there is no {script}", chapter.file)));
        }
    }
}

/// All calls of `kiln` in the lines of a text that is a script throughout; returns how many there are.
pub fn check_text(file: &str, text: &str, flags: &mut Flags, problems: &mut Vec<String>) -> usize {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim_start().starts_with('#'));
    let mut count = 0;
    for (line, command) in joined(lines.map(|(line, text)| (line, text.trim().to_string()))) {
        for call in calls(&command) {
            count += 1;
            let why = flags.wrong_with(&call, true);
            problems.extend(why.map(|why| format!("{file}:{line}: kiln {}: {}", call.join(" "), why.trim())));
        }
    }
    count
}

/// The commands of a `console` block, without the `$ `; what is shown in between is left out.
pub fn commands(lines: &[(usize, String)]) -> Vec<(usize, String)> {
    let mut goes_on = false;
    let typed = lines.iter().filter(|(_, text)| {
        let is_typed = text.starts_with("$ ") || goes_on;
        goes_on = is_typed && text.ends_with('\\');
        is_typed
    });
    joined(typed.map(|(line, text)| (*line, text.strip_prefix("$ ").unwrap_or(text).to_string())))
}

/// Lines with those that a backslash joins to them.
fn joined(lines: impl Iterator<Item = (usize, String)>) -> Vec<(usize, String)> {
    let mut commands: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (line, text) in lines {
        let (part, more) = text.strip_suffix('\\').map_or((text.as_str(), false), |part| (part, true));
        match commands.last_mut().filter(|_| goes_on) {
            Some((_, command)) => command.push_str(&format!(" {}", part.trim_start())),
            None => commands.push((line, part.to_string())),
        }
        goes_on = more;
    }
    commands
}

/// A line of an indented block without the remark behind it, which begins after four spaces.
fn without_remark(line: &str) -> String {
    line.split("    ").next().expect("a first part").to_string()
}

/// The arguments of each call of `kiln` in a command of a shell.
fn calls(command: &str) -> Vec<Vec<String>> {
    let mut calls = Vec::new();
    for simple in simple_commands(command) {
        let mut words = simple.into_iter().skip_while(|word| word.contains('=') && !word.starts_with('-'));
        let program = words.next();
        let is_kiln = |name: &str| {
            matches!(name.rsplit('/').next(), Some("kiln" | "kiln-base" | "kiln-head")) && !name.starts_with("scripts")
        };
        if !program.is_some_and(|name| is_kiln(&name)) {
            continue;
        }
        // `...` stands for what everybody knows, and a capital letter for a number.
        let argument = |word: String| match word.len() == 1 && word.chars().all(|c| c.is_ascii_uppercase()) {
            true => "1".to_string(),
            false => word,
        };
        let words: Vec<String> = words.filter(|word| word != "...").map(argument).collect();
        if !words.is_empty() {
            calls.push(words);
        }
    }
    calls
}

/// Words of the simple commands of a line, by the rules of a shell that matter here: quotes, comments, and what separates
/// commands.
fn simple_commands(line: &str) -> Vec<Vec<String>> {
    let (mut commands, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
    let mut quote = None::<char>;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, ' ' | '\t') => words.extend(word.take()),
            (None, ';' | '|' | '&' | '(' | ')' | '>' | '<') => {
                words.extend(word.take());
                commands.push(std::mem::take(&mut words));
            }
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    commands.push(words);
    commands.retain(|words: &Vec<String>| !words.is_empty());
    // `for x in ...; do kiln ...`
    let keywords = ["do", "then", "else", "!", "time", "-", "run:"];
    let strip = |words: Vec<String>| words.into_iter().skip_while(|w| keywords.contains(&w.as_str())).collect();
    commands.into_iter().map(strip).collect()
}
