//! What a program has said about parts of a managed range, to be asked back: advice, and where it was moved last.
//!
//! None of it changes where memory lies here; a program that asks gets the answer that CUDA promises.

use std::collections::BTreeSet;

/// A location as the header has it: kind and number.
pub(crate) type Place = (i32, i32);

/// What holds for every byte of a part.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Mark {
    pub(crate) read_mostly: bool,
    pub(crate) preferred: Option<Place>,
    pub(crate) accessed_by: BTreeSet<i32>,
    pub(crate) moved_to: Option<Place>,
}

/// The parts of a range: where each begins; the last one goes on to the end.
#[derive(Debug)]
pub(crate) struct Marks(Vec<(usize, Mark)>);

impl Default for Marks {
    fn default() -> Marks {
        Marks(vec![(0, Mark::default())])
    }
}

impl Marks {
    /// Changes the mark of `from..to`.
    pub(crate) fn change(&mut self, from: usize, to: usize, change: impl Fn(&mut Mark)) {
        if from >= to {
            return;
        }
        self.split(from);
        self.split(to);
        self.0.iter_mut().filter(|(start, _)| (from..to).contains(start)).for_each(|(_, mark)| change(mark));
        self.0.dedup_by(|later, earlier| later.1 == earlier.1);
    }

    /// What holds for `from..to`: one value if all of it has the same.
    pub(crate) fn common<T: PartialEq>(
        &self,
        from: usize,
        to: usize,
        pick: impl Fn(&Mark) -> T,
    ) -> Option<T> {
        let mut values = self.parts(from, to).map(pick);
        let first = values.next()?;
        values.all(|value| value == first).then_some(first)
    }

    /// The devices that every byte of `from..to` is accessed by.
    pub(crate) fn accessed_by(&self, from: usize, to: usize) -> BTreeSet<i32> {
        let sets = self.parts(from, to).map(|mark| mark.accessed_by.clone());
        sets.reduce(|all, set| &all & &set).unwrap_or_default()
    }

    fn parts(&self, from: usize, to: usize) -> impl Iterator<Item = &Mark> {
        let ends = self.0.iter().skip(1).map(|(start, _)| *start).chain([usize::MAX]);
        let parts = self.0.iter().zip(ends);
        parts.filter(move |((start, _), end)| *start < to && *end > from).map(|((_, mark), _)| mark)
    }

    fn split(&mut self, at: usize) {
        let place = self.0.partition_point(|(start, _)| *start <= at);
        if self.0[place - 1].0 != at {
            let mark = self.0[place - 1].1.clone();
            self.0.insert(place, (at, mark));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_answers_what_all_of_it_has() {
        let mut marks = Marks::default();
        marks.change(10, 20, |mark| mark.moved_to = Some((1, 0)));
        marks.change(15, 30, |mark| mark.read_mostly = true);
        let moved = |from, to| marks.common(from, to, |mark| mark.moved_to);
        assert_eq!(moved(10, 20), Some(Some((1, 0))));
        assert_eq!(moved(9, 20), None, "a byte before it was never moved");
        assert_eq!(moved(20, 99), Some(None));
        assert_eq!(marks.common(15, 30, |mark| mark.read_mostly), Some(true));
        assert_eq!(marks.common(14, 30, |mark| mark.read_mostly), None);
        marks.change(0, 99, |mark| *mark = Mark::default());
        assert_eq!(marks.common(0, 99, |mark| mark.moved_to), Some(None));
        assert_eq!(marks.0.len(), 1, "parts that are alike become one");
    }

    #[test]
    fn a_device_accesses_what_was_said_for_every_byte() {
        let mut marks = Marks::default();
        marks.change(0, 50, |mark| mark.accessed_by.extend([0]));
        marks.change(40, 50, |mark| mark.accessed_by.extend([1]));
        assert_eq!(marks.accessed_by(0, 50), BTreeSet::from([0]));
        assert_eq!(marks.accessed_by(40, 50), BTreeSet::from([0, 1]));
        assert_eq!(marks.accessed_by(40, 51), BTreeSet::new());
    }
}
