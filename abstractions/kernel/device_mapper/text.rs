// SPDX-License-Identifier: GPL-2.0

//! The buffer that a target answers into.

use kernel::{fmt, prelude::*};

/// A buffer of device-mapper's that is cut off where it is full, as `DMEMIT` does.
///
/// The core sees from the length of the text that it was cut off, and asks again with more room.
///
/// # Invariants
///
/// `buffer[used]` is zero, unless the buffer is empty.
pub(crate) struct Text<'a> {
    buffer: &'a mut [u8],
    used: usize,
}

impl<'a> Text<'a> {
    /// Begins an empty text.
    pub(super) fn new(buffer: &'a mut [u8]) -> Self {
        if let Some(first) = buffer.first_mut() {
            *first = 0;
        }
        Self { buffer, used: 0 }
    }
}

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let free = self.buffer.get_mut(self.used..).unwrap_or(&mut []);
        let fits = s.len().min(free.len().saturating_sub(1));
        for (to, from) in free.iter_mut().zip(s.bytes().take(fits)) {
            *to = from;
        }
        if let Some(end) = free.get_mut(fits) {
            *end = 0;
        }
        self.used += fits;
        Ok(())
    }
}

#[kunit_tests(clone_rs_text)]
mod tests {
    use super::*;
    use kernel::fmt::Write;

    #[test]
    fn text_is_cut_off_and_terminated() {
        let mut buffer = [0xffu8; 8];
        {
            let mut text = Text::new(&mut buffer[..6]);
            let _ = write!(text, "{} ", 123);
            let _ = write!(text, "{}", 4567);
            let _ = write!(text, "8");
        }
        assert_eq!(buffer, *b"123 4\0\xff\xff");
    }

    #[test]
    fn no_room_is_no_overrun() {
        let mut buffer = [0xffu8; 2];
        {
            let mut text = Text::new(&mut buffer[..0]);
            let _ = write!(text, "x");
        }
        {
            let mut text = Text::new(&mut buffer[..1]);
            let _ = write!(text, "x");
        }
        assert_eq!(buffer, [0, 0xff]);
    }
}
