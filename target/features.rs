// SPDX-License-Identifier: GPL-2.0

//! The feature arguments of a table line: how they are read, and what is printed of them.

mod name;
mod value;

use super::args::{parse_number, Refusal, Word};
use crate::{
    mapping::{
        geometry::{default_region_size, Geometry},
        Mode, Settings,
    },
    rmw::{OnCloneError, OnReadError, Pipeline, Policy},
};
use kernel::{fmt, prelude::*};
use name::Feature;
pub(super) use value::{batch, depth, mode, rate};
use value::{final_regions, on_clone_error, on_read_error, region_size};

/// The values of the feature arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Options {
    /// `None` where it is the default.
    pub(super) region_size: Option<u64>,
    pub(super) pipeline: Pipeline,
    /// KiB a second, 0 for no bound.
    pub(super) rate: u32,
    pub(super) settings: Settings,
    pub(super) policy: Policy,
}

impl Options {
    const DEFAULT: Self = Self {
        region_size: None,
        pipeline: Pipeline::DEFAULT,
        rate: 0,
        settings: Settings {
            mode: Mode::Mirror,
            strict_discard: false,
            stable: false,
        },
        policy: Policy::DEFAULT,
    };

    /// What a running target works with, which was loaded with these options: `region_size` is set
    /// where it is not the default.
    pub(super) fn in_force(
        self,
        geometry: &Geometry,
        mode: Mode,
        pipeline: Pipeline,
        rate: u32,
    ) -> Self {
        let size = geometry.region_size();
        Self {
            region_size: (size != default_region_size(geometry.len())).then_some(size),
            settings: Settings {
                mode,
                ..self.settings
            },
            pipeline,
            rate,
            ..self
        }
    }

    /// Writes the count and those that are not defaults, so that the line loads again.
    pub(super) fn write(&self, text: &mut impl fmt::Write) -> fmt::Result {
        let default = Self::DEFAULT;
        let Pipeline { depth, batch } = self.pipeline;
        let policy = self.policy;
        let number = |is_default: bool, value: u64| (!is_default).then_some(Value::Number(value));
        let flag = |given: bool| given.then_some(Value::None);
        let written = [
            (Feature::RegionSize, self.region_size.map(Value::Number)),
            (
                Feature::Mode,
                match self.settings.mode {
                    Mode::Mirror => None,
                    Mode::Track => Some(Value::Word("track")),
                },
            ),
            (Feature::Autostart, flag(policy.autostart)),
            (
                Feature::Depth,
                number(depth == default.pipeline.depth, depth.into()),
            ),
            (
                Feature::Batch,
                number(batch == default.pipeline.batch, batch.into()),
            ),
            (
                Feature::Rate,
                number(self.rate == default.rate, self.rate.into()),
            ),
            (Feature::Sparse, flag(policy.sparse)),
            (Feature::Delta, flag(policy.delta)),
            (Feature::StrictDiscard, flag(self.settings.strict_discard)),
            (Feature::Stable, flag(self.settings.stable)),
            (
                Feature::OnReadError,
                match policy.on_read_error {
                    OnReadError::Stop => None,
                    OnReadError::Skip => Some(Value::Word("skip")),
                },
            ),
            (Feature::FillBad, flag(policy.fill_bad)),
            (
                Feature::OnCloneError,
                match policy.on_clone_error {
                    OnCloneError::Detach => None,
                    OnCloneError::Stop => Some(Value::Word("stop")),
                },
            ),
            (
                Feature::Final,
                number(
                    policy.final_regions == default.policy.final_regions,
                    policy.final_regions.into(),
                ),
            ),
        ];
        let written = || {
            written
                .iter()
                .filter_map(|(feature, value)| Some((feature, (*value)?)))
        };

        let words: usize = written()
            .map(|(feature, _)| 1 + usize::from(feature.has_value()))
            .sum();
        write!(text, " {words}")?;
        for (feature, value) in written() {
            write!(text, " {}", feature.name())?;
            match value {
                Value::None => {}
                Value::Word(word) => write!(text, " {word}")?,
                Value::Number(number) => write!(text, " {number}")?,
            }
        }
        Ok(())
    }

    /// Sets the one that `feature` names.
    fn set<'a>(&mut self, feature: Feature, value: Word<'a>) -> Result<(), Refusal<'a>> {
        match feature {
            Feature::RegionSize => self.region_size = Some(region_size(value)?),
            Feature::Mode => self.settings.mode = mode(value)?,
            Feature::Depth => self.pipeline.depth = depth(value)?,
            Feature::Batch => self.pipeline.batch = batch(value)?,
            Feature::Rate => self.rate = rate(value)?,
            Feature::Autostart => self.policy.autostart = true,
            Feature::StrictDiscard => self.settings.strict_discard = true,
            Feature::Stable => self.settings.stable = true,
            Feature::OnReadError => self.policy.on_read_error = on_read_error(value)?,
            Feature::OnCloneError => self.policy.on_clone_error = on_clone_error(value)?,
            Feature::Final => self.policy.final_regions = final_regions(value)?,
            Feature::Sparse => self.policy.sparse = true,
            Feature::Delta => self.policy.delta = true,
            Feature::FillBad => self.policy.fill_bad = true,
            Feature::Metadata => {
                return Err(Refusal::new(
                    feature.unsupported(),
                    feature.name().as_bytes(),
                ));
            }
        }
        Ok(())
    }
}

/// What is written after a feature's name.
#[derive(Clone, Copy)]
enum Value {
    None,
    Word(&'static str),
    Number(u64),
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
    let policy = options.policy;
    if policy.fill_bad && policy.on_read_error == OnReadError::Stop {
        return Err(Refusal::new(
            c"fill_bad needs on_read_error skip",
            Feature::FillBad.name().as_bytes(),
        ));
    }
    Ok(options)
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
                settings: Settings {
                    mode: Mode::Track,
                    ..Options::DEFAULT.settings
                },
                ..Options::DEFAULT
            })
        );
    }

    #[test]
    fn what_is_missing_or_too_much_is_refused() {
        assert_eq!(features(&[]), Ok(Options::DEFAULT));
        assert_eq!(features(&[c"0"]), Ok(Options::DEFAULT));
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
        for value in [c"", c"-1", c"4294967296"] {
            assert!(refused(
                &[c"2", c"rate", value],
                c"rate must be a number of KiB a second below 2^32"
            ));
            assert!(refused(
                &[c"2", c"final", value],
                c"final must be a number of regions below 2^32"
            ));
        }
        assert!(refused(
            &[c"2", c"on_read_error", c"detach"],
            c"on_read_error must be stop or skip"
        ));
        assert!(refused(
            &[c"2", c"on_clone_error", c"skip"],
            c"on_clone_error must be detach or stop"
        ));
        for value in [c"0", c"4", c"12", c"16392"] {
            assert!(refused(
                &[c"2", c"batch", value],
                c"batch must be a multiple of 8 from 8 to 16384"
            ));
        }
        assert!(refused(
            &[c"2", c"mode", c"snapshot"],
            c"Mode snapshot is not supported yet"
        ));
        assert!(refused(
            &[c"2", c"mode", c"x"],
            c"mode must be track, mirror or snapshot"
        ));
    }

    #[test]
    fn what_is_never_bad_is_not_filled() {
        for words in [
            &[c"1", c"fill_bad"][..],
            &[c"3", c"fill_bad", c"on_read_error", c"stop"],
        ] {
            assert!(refused(words, c"fill_bad needs on_read_error skip"));
        }
    }

    #[test]
    fn what_does_not_exist_yet_is_refused_by_name() {
        assert!(refused(
            &[c"2", c"metadata", c"/dev/a"],
            c"Feature metadata is not supported yet"
        ));
    }

    fn written(options: Options) -> Result<CString> {
        struct Shown(Options);
        impl fmt::Display for Shown {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.write(f)
            }
        }
        CString::try_from_fmt(fmt!("{}", Shown(options)))
    }

    #[test]
    fn defaults_are_not_written() -> Result {
        let geometry = |size| Geometry::new(0, 1000, 0, 0, size).map_err(|_| EINVAL);
        let options = Options::DEFAULT;
        assert_eq!(
            written(options.in_force(&geometry(128)?, Mode::Mirror, Pipeline::DEFAULT, 0))?
                .to_bytes(),
            b" 0"
        );
        let pipeline = Pipeline { depth: 1, batch: 8 };
        assert_eq!(
            written(options.in_force(&geometry(8)?, Mode::Track, pipeline, 7))?.to_bytes(),
            b" 10 region_size 8 mode track depth 1 batch 8 rate 7"
        );
        Ok(())
    }

    #[test]
    fn what_is_written_is_read_again() -> Result {
        let words = [
            c"22",
            c"region_size",
            c"8",
            c"mode",
            c"track",
            c"autostart",
            c"depth",
            c"2",
            c"batch",
            c"64",
            c"rate",
            c"100",
            c"sparse",
            c"delta",
            c"strict_discard",
            c"stable",
            c"on_read_error",
            c"skip",
            c"fill_bad",
            c"on_clone_error",
            c"stop",
            c"final",
            c"0",
        ];
        let options = features(&words).map_err(|_| EINVAL)?;
        assert_eq!(
            written(options)?.to_bytes(),
            b" 22 region_size 8 mode track autostart depth 2 batch 64 rate 100 sparse delta \
              strict_discard stable on_read_error skip fill_bad on_clone_error stop final 0"
        );
        Ok(())
    }
}
