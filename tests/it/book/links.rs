//! Whether links of a chapter lead to a file of the repository, and to a heading where they name one.

use super::chapter::{Chapter, repository};

/// Files of the repository, as the book links to them from outside of it.
const BLOB: [&str; 2] = ["https://github.com/kiln-ann/kiln/blob/main/", "https://github.com/kiln-ann/kiln/tree/main/"];

pub fn check(chapter: &Chapter, problems: &mut Vec<String>) {
    for (line, text) in &chapter.prose {
        for target in targets(text) {
            if let Some(why) = wrong_with(&chapter.file, target) {
                problems.push(format!("{}:{line}: {target}: {why}", chapter.file));
            }
        }
    }
}

/// What stands in round brackets behind square ones.
fn targets(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0))
}

fn wrong_with(file: &str, target: &str) -> Option<String> {
    let outside = BLOB.iter().find_map(|blob| target.strip_prefix(blob));
    if outside.is_none() && target.starts_with("https://") {
        return None;
    }
    if target.starts_with("http://") {
        return Some("use https".into());
    }
    let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let path = match (outside, path) {
        (Some(_), _) => repository(outside?.split('#').next()?),
        (None, "") => repository("docs").join(file),
        (None, path) if path.starts_with("../") => {
            return Some("the book does not hold it: link to the repository's address".into());
        }
        (None, path) => repository("docs").join(path),
    };
    if !path.exists() {
        return Some("there is no such file".into());
    }
    let anchor = anchor?;
    let name = path.strip_prefix(repository("docs")).ok()?.to_string_lossy().into_owned();
    let headings = Chapter::read(&name).prose;
    let mut anchors = headings.iter().filter_map(|(_, line)| Some(anchor_of(line.strip_prefix('#')?)));
    (!anchors.any(|other| other == anchor)).then(|| "there is no such heading".into())
}

/// The anchor that mdBook and GitHub give a heading.
fn anchor_of(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}
