// SPDX-License-Identifier: GPL-2.0

//! Which feature arguments there are.

use crate::target::args::Word;
use kernel::{c_str, prelude::*};

/// All feature arguments of the control surface: name, whether a value follows, and the texts that
/// refuse it. The texts are static, as the core prints them after the constructor has returned.
macro_rules! features {
    ($($feature:ident $name:literal $has_value:literal,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Feature {
            $($feature,)*
        }

        impl Feature {
            const ALL: &'static [Self] = &[$(Self::$feature,)*];

            pub(super) fn name(self) -> &'static str {
                match self { $(Self::$feature => $name,)* }
            }

            pub(super) fn has_value(self) -> bool {
                match self { $(Self::$feature => $has_value,)* }
            }

            pub(super) fn given_twice(self) -> &'static CStr {
                match self {
                    $(Self::$feature => c_str!(concat!("Feature ", $name, " is given twice")),)*
                }
            }

            pub(super) fn lacks_value(self) -> &'static CStr {
                match self {
                    $(Self::$feature => c_str!(concat!("Feature ", $name, " lacks its value")),)*
                }
            }

            pub(super) fn unsupported(self) -> &'static CStr {
                match self {
                    $(Self::$feature =>
                        c_str!(concat!("Feature ", $name, " is not supported yet")),)*
                }
            }
        }
    };
}

features! {
    RegionSize "region_size" true,
    Mode "mode" true,
    Autostart "autostart" false,
    Depth "depth" true,
    Batch "batch" true,
    Rate "rate" true,
    Sparse "sparse" false,
    Delta "delta" false,
    StrictDiscard "strict_discard" false,
    Stable "stable" false,
    OnReadError "on_read_error" true,
    FillBad "fill_bad" false,
    OnCloneError "on_clone_error" true,
    Final "final" true,
    Metadata "metadata" true,
}

impl Feature {
    pub(super) fn of(word: Word<'_>) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|feature| word.eq_ignore_ascii_case(feature.name().as_bytes()))
    }

    /// Which one it is, as a bit.
    pub(super) fn bit(self) -> u32 {
        1 << self as u32
    }
}
