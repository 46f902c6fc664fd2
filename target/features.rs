// SPDX-License-Identifier: GPL-2.0

//! The feature arguments of a table line: what there is, what each may be, what is printed of them.

use super::args::{parse_number, Refusal, Word};
use crate::{
    mapping::geometry::{default_region_size, Geometry, MAX_REGION_SIZE, MIN_REGION_SIZE},
    rmw::Pipeline,
};
use kernel::{c_str, fmt, prelude::*};

/// All feature arguments of the control surface: name, whether a value follows, and the texts that
/// refuse it. The texts are static, as the core prints them after the constructor has returned.
macro_rules! features {
    ($($feature:ident $name:literal $has_value:literal,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Feature {
            $($feature,)*
        }

        impl Feature {
            const ALL: &'static [Self] = &[$(Self::$feature,)*];

            fn name(self) -> &'static str {
                match self { $(Self::$feature => $name,)* }
            }

            fn has_value(self) -> bool {
                match self { $(Self::$feature => $has_value,)* }
            }

            fn given_twice(self) -> &'static CStr {
                match self {
                    $(Self::$feature => c_str!(concat!("Feature ", $name, " is given twice")),)*
                }
            }

            fn lacks_value(self) -> &'static CStr {
                match self {
                    $(Self::$feature => c_str!(concat!("Feature ", $name, " lacks its value")),)*
                }
            }

            fn unsupported(self) -> &'static CStr {
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
    OnCloneError "on_clone_error" true,
    Final "final" true,
    Metadata "metadata" true,
}

impl Feature {
    fn of(word: Word<'_>) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|feature| word.eq_ignore_ascii_case(feature.name().as_bytes()))
    }

    /// Which one it is, as a bit.
    fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// The values of the feature arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Options {
    /// `None` where it is the default.
    pub(super) region_size: Option<u64>,
    pub(super) pipeline: Pipeline,
    /// Whether the mode was given. Its default is a mode that does not exist yet.
    mode_given: bool,
}

impl Options {
    const DEFAULT: Self = Self {
        region_size: None,
        pipeline: Pipeline::DEFAULT,
        mode_given: false,
    };

    /// What a running target works with.
    pub(super) fn in_force(geometry: &Geometry, pipeline: Pipeline) -> Self {
        let size = geometry.region_size();
        Self {
            region_size: (size != default_region_size(geometry.len())).then_some(size),
            pipeline,
            mode_given: true,
        }
    }

    /// Writes the count and those that are not defaults, so that the line loads again.
    pub(super) fn write(&self, text: &mut impl fmt::Write) -> fmt::Result {
        let pipeline = self.pipeline;
        let depth = (pipeline.depth != Pipeline::DEFAULT.depth).then_some(pipeline.depth);
        let batch = (pipeline.batch != Pipeline::DEFAULT.batch).then_some(pipeline.batch);
        let pairs = usize::from(self.region_size.is_some())
            + 1
            + usize::from(depth.is_some())
            + usize::from(batch.is_some());

        write!(text, " {}", pairs * 2)?;
        if let Some(size) = self.region_size {
            write!(text, " region_size {size}")?;
        }
        write!(text, " mode track")?;
        if let Some(depth) = depth {
            write!(text, " depth {depth}")?;
        }
        if let Some(batch) = batch {
            write!(text, " batch {batch}")?;
        }
        Ok(())
    }

    /// Sets the one that `feature` names.
    fn set<'a>(&mut self, feature: Feature, value: Word<'a>) -> Result<(), Refusal<'a>> {
        match feature {
            Feature::RegionSize => self.region_size = Some(region_size(value)?),
            Feature::Mode => {
                mode(value)?;
                self.mode_given = true;
            }
            Feature::Depth => {
                self.pipeline.depth = bounded(value, 1, Pipeline::MAX_DEPTH, 1)
                    .ok_or(Refusal::new(c"depth must be from 1 to 256", value))?;
            }
            Feature::Batch => {
                let unit = Pipeline::BATCH_UNIT;
                self.pipeline.batch = bounded(value, unit, Pipeline::MAX_BATCH, unit).ok_or(
                    Refusal::new(c"batch must be a multiple of 8 from 8 to 16384", value),
                )?;
            }
            Feature::Autostart
            | Feature::Rate
            | Feature::Sparse
            | Feature::Delta
            | Feature::StrictDiscard
            | Feature::Stable
            | Feature::OnReadError
            | Feature::OnCloneError
            | Feature::Final
            | Feature::Metadata => {
                return Err(Refusal::new(
                    feature.unsupported(),
                    feature.name().as_bytes(),
                ));
            }
        }
        Ok(())
    }
}

fn bounded(value: Word<'_>, min: u32, max: u32, unit: u32) -> Option<u32> {
    let number = u32::try_from(parse_number(value)?).ok()?;
    ((min..=max).contains(&number) && number % unit == 0).then_some(number)
}

fn region_size(value: Word<'_>) -> Result<u64, Refusal<'_>> {
    let text = match parse_number(value) {
        None => c"region_size must be a number of sectors",
        Some(0) => c"region_size must not be 0",
        Some(size) if size < MIN_REGION_SIZE => c"region_size must be at least 8 sectors",
        Some(size) if !size.is_power_of_two() => c"region_size must be a power of two",
        Some(size) if size > MAX_REGION_SIZE => c"region_size must be at most 2097152 sectors",
        Some(size) => return Ok(size),
    };
    Err(Refusal::new(text, value))
}

fn mode(value: Word<'_>) -> Result<(), Refusal<'_>> {
    let is = |name: &str| value.eq_ignore_ascii_case(name.as_bytes());
    if is("track") {
        Ok(())
    } else if is("mirror") {
        Err(Refusal::new(c"Mode mirror is not supported yet", value))
    } else if is("snapshot") {
        Err(Refusal::new(c"Mode snapshot is not supported yet", value))
    } else {
        Err(Refusal::new(
            c"mode must be track, mirror or snapshot",
            value,
        ))
    }
}

/// Parses `[<#feature args> [<feature arg>]...]`; what is not given gets its default.
pub(super) fn parse<'a>(
    mut words: impl ExactSizeIterator<Item = Word<'a>>,
) -> Result<Options, Refusal<'a>> {
    if let Some(word) = words.next() {
        let count =
            parse_number(word).ok_or(Refusal::new(c"Invalid feature argument count", word))?;
        let rest = words.len() as u64;
        if count > rest {
            return Err(Refusal::new(
                c"Feature argument count is larger than what follows",
                word,
            ));
        }
        if count < rest {
            return Err(Refusal::new(
                c"Feature argument count is smaller than what follows",
                word,
            ));
        }
    }
    let mut options = Options::DEFAULT;
    let mut seen = 0;
    while let Some(word) = words.next() {
        let feature = Feature::of(word).ok_or(Refusal::new(c"Unknown feature argument", word))?;
        if seen & feature.bit() != 0 {
            return Err(Refusal::new(feature.given_twice(), word));
        }
        seen |= feature.bit();
        let value = if feature.has_value() {
            words
                .next()
                .ok_or(Refusal::new(feature.lacks_value(), word))?
        } else {
            b""
        };
        options.set(feature, value)?;
    }
    if options.mode_given {
        Ok(options)
    } else {
        Err(Refusal::new(
            c"Mode mirror, the default, is not supported yet: give mode track",
            b"mode",
        ))
    }
}

#[kunit_tests(clone_rs_features)]
mod tests {
    use super::*;
    use kernel::str::CString;

    fn features(words: &[&'static CStr]) -> Result<Options, &'static CStr> {
        parse(words.iter().map(|word| word.to_bytes())).map_err(|refusal| refusal.error.text)
    }

    fn refused(words: &[&'static CStr], text: &CStr) -> bool {
        features(words).err() == Some(text)
    }

    #[test]
    fn features_are_read_without_regard_to_case() {
        let options = features(&[
            c"8",
            c"DEPTH",
            c"2",
            c"batch",
            c"64",
            c"Mode",
            c"TRACK",
            c"region_size",
            c"8",
        ]);
        assert_eq!(
            options,
            Ok(Options {
                region_size: Some(8),
                pipeline: Pipeline {
                    depth: 2,
                    batch: 64
                },
                mode_given: true,
            })
        );
    }

    #[test]
    fn what_is_missing_or_too_much_is_refused() {
        assert!(refused(
            &[],
            c"Mode mirror, the default, is not supported yet: give mode track"
        ));
        assert!(refused(
            &[c"0"],
            c"Mode mirror, the default, is not supported yet: give mode track"
        ));
        assert!(refused(&[c"x"], c"Invalid feature argument count"));
        assert!(refused(
            &[c"3", c"mode", c"track"],
            c"Feature argument count is larger than what follows"
        ));
        assert!(refused(
            &[c"1", c"mode", c"track"],
            c"Feature argument count is smaller than what follows"
        ));
        assert!(refused(&[c"1", c"mode"], c"Feature mode lacks its value"));
        assert!(refused(&[c"1", c"nodm"], c"Unknown feature argument"));
        assert!(refused(
            &[c"4", c"mode", c"track", c"MODE", c"track"],
            c"Feature mode is given twice"
        ));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for (value, text) in [
            (c"", c"region_size must be a number of sectors"),
            (c"0", c"region_size must not be 0"),
            (c"7", c"region_size must be at least 8 sectors"),
            (c"12", c"region_size must be a power of two"),
            (c"4194304", c"region_size must be at most 2097152 sectors"),
        ] {
            assert!(refused(&[c"2", c"region_size", value], text));
        }
        for value in [c"0", c"257", c"-1", c"4294967297"] {
            assert!(refused(
                &[c"2", c"depth", value],
                c"depth must be from 1 to 256"
            ));
        }
        for value in [c"0", c"4", c"12", c"16392"] {
            assert!(refused(
                &[c"2", c"batch", value],
                c"batch must be a multiple of 8 from 8 to 16384"
            ));
        }
        assert!(refused(
            &[c"2", c"mode", c"mirror"],
            c"Mode mirror is not supported yet"
        ));
        assert!(refused(
            &[c"2", c"mode", c"x"],
            c"mode must be track, mirror or snapshot"
        ));
    }

    #[test]
    fn what_does_not_exist_yet_is_refused_by_name() {
        assert!(refused(
            &[c"1", c"sparse"],
            c"Feature sparse is not supported yet"
        ));
        assert!(refused(
            &[c"2", c"rate", c"100"],
            c"Feature rate is not supported yet"
        ));
    }

    #[test]
    fn defaults_are_not_written() -> Result {
        let geometry = |size| Geometry::new(0, 1000, 0, 0, size).map_err(|_| EINVAL);
        let written = |options: Options| -> Result<CString> {
            struct Shown(Options);
            impl fmt::Display for Shown {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    self.0.write(f)
                }
            }
            CString::try_from_fmt(fmt!("{}", Shown(options)))
        };
        let options = Options::in_force(&geometry(128)?, Pipeline::DEFAULT);
        assert_eq!(written(options)?.to_bytes(), b" 2 mode track");
        let options = Options::in_force(&geometry(8)?, Pipeline { depth: 1, batch: 8 });
        assert_eq!(
            written(options)?.to_bytes(),
            b" 8 region_size 8 mode track depth 1 batch 8"
        );
        Ok(())
    }
}
