//! The lanes of the config, as the log takes them.

use tidegate_config::{self as config, Config};

use crate::log::{Downsample, Keep, LaneOptions, Rule, WhenFull};

/// All of them, `default` first.
pub(super) fn options(config: &Config) -> Vec<LaneOptions> {
    let others: u64 = config.lanes.iter().skip(1).map(|lane| lane.max_size.0).sum();
    let left = config.budget().left().0.saturating_sub(others);
    let with_size = config.lanes.iter().enumerate().map(|(index, lane)| {
        // The first one has what the others leave, unless it is to have less.
        let has_quota = index > 0 || lane.max_size.0 < left;
        LaneOptions {
            name: lane.name.clone(),
            topics: lane.topics.iter().map(|filter| filter.0.clone()).collect(),
            max_size: has_quota.then_some(lane.max_size.0),
            rule: rule(lane),
        }
    });
    let mut lanes: Vec<LaneOptions> = with_size.collect();
    // An event is in the first lane that matches: `alerts` comes after all others.
    if lanes.len() > 2 {
        lanes[1..].rotate_left(1);
    }
    lanes
}

fn rule(lane: &config::Lane) -> Rule {
    Rule {
        max_age: lane.max_age.map(|age| age.0),
        when_full: match &lane.when_full {
            config::WhenFull::Reject => WhenFull::Reject,
            config::WhenFull::DropOldest => WhenFull::DropOldest,
            config::WhenFull::DropNewest => WhenFull::DropNewest,
            config::WhenFull::Downsample(downsample) => WhenFull::Downsample(thinned(downsample)),
        },
        priority: lane.priority,
    }
}

fn thinned(downsample: &config::Downsample) -> Downsample {
    let value = || downsample.value.clone();
    Downsample {
        interval: downsample.interval.0,
        keep: match downsample.keep {
            config::Keep::Last => Keep::Last,
            config::Keep::Mean => Keep::Mean(value()),
            config::Keep::Min => Keep::Min(value()),
            config::Keep::Max => Keep::Max(value()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_are_matched_last_and_default_has_what_is_left() {
        let lanes = |default: &str| {
            let config = format!(
                "listener = [{{ type = 'mqtt', bind = '[::1]:0' }}]
                 log.max-size = '256MiB'
                 [[lane]]
                 name = 'low'
                 topics = ['alerts/low/#']
                 max-size = '64MiB'
                 when-full = 'downsample'
                 downsample = {{ interval = '1m', keep = 'max', value = '/t' }}
                 [[lane]]
                 name = 'default'
                 {default}"
            );
            options(&Config::from_toml(&config, "test.toml").unwrap())
        };
        let taken = lanes("");
        let all: Vec<_> = taken.iter().map(|lane| (lane.name.as_str(), lane.max_size)).collect();
        assert_eq!(all, [("default", None), ("low", Some(64 << 20)), ("alerts", Some(16 << 20))]);
        let keep = Keep::Max("/t".to_owned());
        let interval = std::time::Duration::from_secs(60);
        assert_eq!(taken[1].rule.when_full, WhenFull::Downsample(Downsample { interval, keep }));
        assert_eq!(lanes("max-size = '50MiB'")[0].max_size, Some(50 << 20));
        assert_eq!(lanes("max-size = '121MiB'")[0].max_size, None);
    }
}
