//! The time that a run may take, and the parts of it that its engines may take.
//!
//! In: a duration. Out: how much is left, now. What one engine leaves over, the next ones share; what its build takes, all
//! of them bear.

use std::time::{Duration, Instant};

/// A time that must not be passed; none: there is no hurry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    deadline: Option<Instant>,
    /// The end of what this is a part of, and how many there were.
    whole: Option<(Instant, u32)>,
}

impl Budget {
    /// One that begins now.
    pub(crate) fn new(length: Option<Duration>) -> Self {
        Self { deadline: length.map(|length| Instant::now() + length), whole: None }
    }

    /// What is left; `None` without end.
    pub(crate) fn left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Whether nothing is left.
    pub(crate) fn is_spent(&self) -> bool {
        self.left() == Some(Duration::ZERO)
    }

    /// One of `parts` equal parts of what is left.
    pub(crate) fn share(&self, parts: usize) -> Self {
        let parts = u32::try_from(parts.max(1)).unwrap_or(u32::MAX);
        Self { whole: self.deadline.map(|end| (end, parts)), ..Self::new(self.left().map(|left| left / parts)) }
    }

    /// The same part of what is left now. A build may take longer than its engine's part, and would be in vain if nothing
    /// were left to measure it in.
    pub(crate) fn renewed(&self) -> Self {
        match self.whole {
            Some((end, parts)) => Self { deadline: Some(end), whole: None }.share(parts as usize),
            None => *self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_shared_and_spent() {
        let endless = Budget::new(None);
        assert!(!endless.is_spent() && endless.left().is_none() && endless.share(3).left().is_none());
        assert!(Budget::new(Some(Duration::ZERO)).is_spent());
        let hour = Budget::new(Some(Duration::from_secs(3600)));
        let share = hour.share(4).left().expect("ends");
        assert!(share <= Duration::from_secs(900) && share > Duration::from_secs(800) && !hour.is_spent());
        assert!(Budget::new(Some(Duration::ZERO)).share(0).is_spent());
        let spent = Budget { deadline: Some(Instant::now()), ..hour.share(4) };
        let renewed = spent.renewed().left().expect("ends");
        assert!(spent.is_spent() && renewed <= Duration::from_secs(900) && renewed > Duration::from_secs(800));
        assert!(endless.share(3).renewed().left().is_none() && hour.renewed().left() > Some(Duration::from_secs(3500)));
    }
}
