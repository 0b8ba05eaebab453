//! Whether what a block shows is what was printed.

/// The first line that does not match, with what was there in its place; `None` where all do.
///
/// A shown line of `...` stands for any lines, `...` within a line for anything. With `figures` every number matches every
/// number, and columns may be of another width.
pub fn difference(shown: &[&str], printed: &[&str], figures: bool) -> Option<String> {
    let normal = |line: &&str| if figures { without_figures(line) } else { line.trim_end().to_string() };
    let shown: Vec<String> = shown.iter().map(normal).collect();
    let printed: Vec<String> = printed.iter().map(normal).collect();
    // The furthest pair of lines that could not be matched.
    let mut furthest = (0, 0);
    if matches(&shown, &printed, (0, 0), &mut furthest) {
        return None;
    }
    let (at, there) = furthest;
    let or_end = |line: Option<&String>| line.map_or("the end".to_string(), |line| format!("{line:?}"));
    Some(format!("shown is {}, printed was {}", or_end(shown.get(at)), or_end(printed.get(there))))
}

fn matches(shown: &[String], printed: &[String], at: (usize, usize), furthest: &mut (usize, usize)) -> bool {
    let Some((first, rest)) = shown.split_first() else {
        *furthest = (*furthest).max(at);
        return printed.is_empty();
    };
    if first == "..." {
        return (0..=printed.len())
            .any(|skipped| matches(rest, &printed[skipped..], (at.0 + 1, at.1 + skipped), furthest));
    }
    *furthest = (*furthest).max(at);
    printed.split_first().is_some_and(|(line, others)| {
        line_matches(first, line) && matches(rest, others, (at.0 + 1, at.1 + 1), furthest)
    })
}

fn line_matches(shown: &str, printed: &str) -> bool {
    let mut parts = shown.split("...");
    let first = parts.next().expect("a first part");
    let Some(mut rest) = printed.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Every number as `0`, every run of spaces as one.
fn without_figures(line: &str) -> String {
    let mut normal = String::with_capacity(line.len());
    let mut letters = line.trim_end().chars().peekable();
    while let Some(c) = letters.next() {
        let before = normal.chars().last();
        if c.is_ascii_digit() && !before.is_some_and(|c| c.is_alphabetic()) {
            // 1,234.5 is one number, and 12.0 MiB another size of the same kind.
            while letters.peek().is_some_and(|&c| c.is_ascii_digit() || c == ',' || c == '.') {
                letters.next();
            }
            normal.push('0');
        } else if c == ' ' || c == '-' && letters.peek().is_some_and(|&c| c == '-') {
            // Columns are as wide as their figures.
            if before != Some(c) {
                normal.push(c);
            }
        } else {
            normal.push(c);
        }
    }
    ["KiB", "MiB", "GiB"].iter().fold(normal, |normal, unit| normal.replace(unit, "MiB"))
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn what_is_shown_matches_what_is_printed_and_nothing_else() {
        let printed = ["a  12.5 MiB", "b", "c 7", "d"];
        let same = |shown: &[&str], figures| difference(shown, &printed, figures).is_none();
        assert!(same(&["a  12.5 MiB", "b", "c 7", "d"], false) && same(&["a 9 KiB", "b", "c 1,000", "d"], true));
        assert!(same(&["...", "c...", "d"], false) && same(&["a...MiB", "..."], false));
        assert!(!same(&["a  12.5 MiB", "b", "c 7"], false) && !same(&["a 9 KiB", "b", "e 1", "d"], true));
        assert!(!same(&["...", "b", "d"], false) && !same(&["a...", "b", "c 8", "d"], false));
        let told = difference(&["a...", "x"], &printed, false).expect("different");
        assert_eq!(told, "shown is \"x\", printed was \"b\"");
    }
}
