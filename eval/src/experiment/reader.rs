//! Reading a table of TOML key by key, so that one wrong value hides no other.
//!
//! In: a parsed table. Out: values of the types that are asked for; what is missing, of another type or unknown goes to
//! [`Problems`], and reading goes on.

use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problems::{At, Located, Problems, nearest};

/// A table whose keys are taken one by one.
pub(super) struct Table<'a> {
    problems: &'a Problems,
    /// `engine[2].search`; empty for the whole file.
    path: String,
    at: At,
    entries: &'a DeTable<'a>,
    known: RefCell<Vec<&'static str>>,
}

/// A value of a table or of an array.
#[derive(Clone)]
pub(super) struct Field<'a> {
    problems: &'a Problems,
    pub at: At,
    value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Table<'a> {
    pub(super) fn root(problems: &'a Problems, table: &'a Spanned<DeTable<'a>>) -> Self {
        let at = At::new(&(0..0), "");
        Self { problems, path: String::new(), at, entries: table.get_ref(), known: RefCell::default() }
    }

    /// Where the table stands.
    pub(super) fn at(&self) -> &At {
        &self.at
    }

    fn full(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_string() } else { format!("{}.{key}", self.path) }
    }

    /// The value of a key, which is known from here on.
    pub(super) fn take(&self, key: &'static str) -> Option<Field<'a>> {
        self.known.borrow_mut().push(key);
        let (name, value) = self.entries.iter().find(|(name, _)| name.get_ref() == key)?;
        Some(Field { problems: self.problems, at: At::new(&name.span(), &self.full(key)), value })
    }

    /// The value of a key that must be there.
    pub(super) fn need(&self, key: &'static str, what: &str) -> Option<Field<'a>> {
        let taken = self.take(key);
        if taken.is_none() {
            self.problems.add(&At { key: self.full(key), ..self.at.clone() }, format!("it is missing: {what}"));
        }
        taken
    }

    /// All keys with their values, whatever their names.
    pub(super) fn all(&self) -> Vec<(String, Field<'a>)> {
        let field = |(name, value): (&Spanned<std::borrow::Cow<'a, str>>, &'a Spanned<DeValue<'a>>)| {
            let key = name.get_ref().to_string();
            let at = At::new(&name.span(), &self.full(&key));
            (key, Field { problems: self.problems, at, value })
        };
        let mut all: Vec<_> = self.entries.iter().map(field).collect();
        // By their place in the file, not by their names.
        all.sort_by_key(|(_, field)| field.value.span().start);
        all
    }

    /// Refuses keys that were not asked for. `elsewhere` may say of one where it belongs.
    pub(super) fn finish(&self, elsewhere: impl Fn(&str) -> Option<String>) {
        let known = self.known.borrow();
        for (key, field) in self.all() {
            if known.contains(&key.as_str()) {
                continue;
            }
            let message = match (elsewhere(&key), nearest(&key, &known)) {
                (Some(why), _) => why,
                (None, Some(meant)) => format!("unknown key; did you mean {meant}?"),
                (None, None) => format!("unknown key; known here: {}", known.join(", ")),
            };
            self.problems.add(&field.at, message);
        }
    }
}

impl<'a> Field<'a> {
    /// Tells what is wrong with it.
    pub(super) fn wrong(&self, message: impl Into<String>) {
        self.problems.add(&self.at, message);
    }

    pub(super) fn located<T>(&self, value: T) -> Located<T> {
        Located { value, at: self.at.clone() }
    }

    fn of_type<T>(&self, wanted: &str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            let found = self.value.get_ref();
            let article = if found.type_str().starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
            self.wrong(format!("{wanted} is expected, and it is {article} {}", found.type_str()));
        }
        value
    }

    pub(super) fn text(&self) -> Option<&'a str> {
        let text = self.of_type("a text in quotes", self.value.get_ref().as_str())?;
        if text.is_empty() {
            self.wrong("it is empty");
            return None;
        }
        Some(text)
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        self.of_type("true or false", self.value.get_ref().as_bool())
    }

    /// The integer as TOML has it, of any base.
    fn whole(&self) -> Option<i64> {
        let integer = self.value.get_ref().as_integer()?;
        i64::from_str_radix(integer.as_str(), integer.radix()).ok()
    }

    pub(super) fn integer(&self, allowed: RangeInclusive<u64>) -> Option<u64> {
        let (least, most) = (*allowed.start(), *allowed.end());
        let range = if most == u64::MAX { format!("{least} or more") } else { format!("{least} to {most}") };
        let value = self.of_type(&format!("a whole number, {range},"), self.whole())?;
        let fits = u64::try_from(value).ok().filter(|value| allowed.contains(value));
        if fits.is_none() {
            self.wrong(format!("{value} is out of range: use {range}"));
        }
        fits
    }

    pub(super) fn number(&self) -> Option<f64> {
        let value = self.value.get_ref();
        let float = value.as_float().and_then(|float| float.as_str().parse::<f64>().ok());
        self.of_type("a number", float.or_else(|| self.whole().map(|whole| whole as f64)))
    }

    /// A text that `parse` understands, or in its words what is allowed.
    pub(super) fn parsed<T>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text()?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(allowed) => {
                self.wrong(format!("{text:?}: {allowed}"));
                None
            }
        }
    }

    /// A size or a time: a text with a unit, or a bare number.
    pub(super) fn measure<T>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let value = self.value.get_ref();
        match value.as_float().map(|float| float.as_str().to_string()).or(self.whole().map(|n| n.to_string())) {
            Some(number) => parse(&number).map_err(|allowed| self.wrong(format!("{number}: {allowed}"))).ok(),
            None => self.parsed(parse),
        }
    }

    /// One of these words.
    pub(super) fn choice<T: Copy>(&self, words: &[(&'static str, T)]) -> Option<T> {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        self.parsed(|text| {
            let found = words.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
            let meant = nearest(text, &names).map_or(String::new(), |name| format!("; did you mean {name}?"));
            found.ok_or_else(|| format!("use {}{meant}", names.join(", ")))
        })
    }

    /// Its values where it is an array, which must have one at least; itself where it is not.
    pub(super) fn each(&self) -> Vec<Field<'a>> {
        let Some(array) = self.value.get_ref().as_array() else { return vec![self.clone()] };
        if array.is_empty() {
            self.wrong("it is empty: give one value or more, or leave the key out");
        }
        array.iter().map(|value| Field { problems: self.problems, at: self.at.clone(), value }).collect()
    }

    pub(super) fn table(&self) -> Option<Table<'a>> {
        let entries = self.of_type("a table", self.value.get_ref().as_table())?;
        let (path, at) = (self.at.key.clone(), self.at.clone());
        Some(Table { problems: self.problems, path, at, entries, known: RefCell::default() })
    }

    /// Its tables, where it is written as `[[key]]`; each is named by its number, from 1.
    pub(super) fn tables(&self) -> Vec<Table<'a>> {
        let key = self.at.key.clone();
        let Some(array) = self.of_type(&format!("tables, each headed [[{key}]],"), self.value.get_ref().as_array())
        else {
            return Vec::new();
        };
        let one = |(number, value): (usize, &'a Spanned<DeValue<'a>>)| {
            let at = At::new(&value.span(), &format!("{key}[{}]", number + 1));
            Field { problems: self.problems, at, value }.table()
        };
        if array.is_empty() {
            self.wrong("it is empty");
        }
        array.iter().enumerate().filter_map(one).collect()
    }

    /// The value as JSON: what is handed on as it stands.
    pub(super) fn json(&self) -> Option<serde_json::Value> {
        let value = self.value.get_ref();
        let json = match value {
            DeValue::String(text) => Some(serde_json::Value::from(text.as_ref())),
            DeValue::Integer(_) => self.whole().map(serde_json::Value::from),
            DeValue::Float(float) => float.as_str().parse::<f64>().ok().filter(|f| f.is_finite()).map(Into::into),
            DeValue::Boolean(value) => Some(serde_json::Value::from(*value)),
            DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
        };
        self.of_type("a text, a number, true or false, or a list of them,", json)
    }
}

/// The problem that a parser tells, in its place.
pub(super) fn syntax(problems: &Problems, error: &toml::de::Error) {
    let span: Range<usize> = error.span().unwrap_or(0..0);
    problems.add(&At::new(&span, ""), error.message().trim().replace('\n', "; "));
}
