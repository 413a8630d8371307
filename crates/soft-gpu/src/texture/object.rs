//! The objects that kernels name by handle, and the table in which a launch finds them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::image::Image;
use super::sample::Texture;

/// What kind of thing an image is part of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shape {
    /// Device memory as one row of texels.
    Linear,
    Plain,
    Layered,
    Cube,
    LayeredCube,
}

impl Shape {
    /// Whether the slices of an image are layers or faces, and not an axis.
    pub(crate) fn is_layered(self) -> bool {
        !matches!(self, Shape::Linear | Shape::Plain)
    }

    pub(crate) fn is_cube(self) -> bool {
        matches!(self, Shape::Cube | Shape::LayeredCube)
    }
}

/// A texture or surface object.
pub(crate) enum Object {
    Texture(Texture),
    Surface(Image),
}

/// Handle -> object, as a launch sees it from its start to its end.
#[derive(Clone, Default)]
pub(crate) struct Objects(Vec<Option<(u64, Arc<Object>)>>);

impl Objects {
    /// The object of a handle; `None` if it was never given out or is gone.
    pub(crate) fn get(&self, handle: u64) -> Option<&Object> {
        let (own, object) = self.0.get(place(handle)?)?.as_ref()?;
        (*own == handle).then_some(&**object)
    }
}

/// The objects of a device. A change makes a new table, so a running launch needs no lock to look into its own.
#[derive(Default)]
pub(crate) struct ObjectTable(Mutex<Books>);

#[derive(Default)]
struct Books {
    objects: Arc<Objects>,
    made: u64,
}

impl ObjectTable {
    fn lock(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The table as it is now.
    pub(crate) fn snapshot(&self) -> Arc<Objects> {
        Arc::clone(&self.lock().objects)
    }

    /// Gives an object a handle.
    pub(crate) fn insert(&self, object: Object) -> u64 {
        let mut books = self.lock();
        books.made += 1;
        let made = books.made;
        let all = &mut Arc::make_mut(&mut books.objects).0;
        let free = all.iter().position(Option::is_none).unwrap_or_else(|| {
            all.push(None);
            all.len() - 1
        });
        let handle = made << PLACE_BITS | (free as u64 + 1);
        all[free] = Some((handle, Arc::new(object)));
        handle
    }

    /// Ends an object of the kind that `is` accepts; false if there is none of this handle.
    pub(crate) fn remove(&self, handle: u64, is: impl Fn(&Object) -> bool) -> bool {
        let mut books = self.lock();
        if !books.objects.get(handle).is_some_and(is) {
            return false;
        }
        let Some(place) = place(handle) else { return false };
        Arc::make_mut(&mut books.objects).0[place] = None;
        true
    }
}

/// Handles carry a number that never comes back above their place in the table.
const PLACE_BITS: u32 = 20;

fn place(handle: u64) -> Option<usize> {
    usize::try_from((handle & ((1 << PLACE_BITS) - 1)).checked_sub(1)?).ok()
}

#[cfg(test)]
mod tests {
    use super::super::format::Format;
    use super::*;

    #[test]
    fn a_handle_ends_with_its_object_and_never_comes_back() {
        let table = ObjectTable::default();
        let image = || Image::new(Format::new(0x20, 1).expect("known"), 1, 1, 1).expect("memory");
        let first = table.insert(Object::Surface(image()));
        let launched = table.snapshot();
        assert!(!table.remove(first, |object| matches!(object, Object::Texture(_))));
        assert!(table.remove(first, |object| matches!(object, Object::Surface(_))));
        let second = table.insert(Object::Surface(image()));
        assert_ne!(first, second);
        assert!(table.snapshot().get(first).is_none() && table.snapshot().get(second).is_some());
        assert!(launched.get(first).is_some(), "a launch keeps what it began with");
        assert!(launched.get(0).is_none() && launched.get(u64::MAX).is_none());
    }
}
