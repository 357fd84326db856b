//! What the sensors of a plant measure: a base, the course of the day, slow wander, noise, and boilers
//! that overheat now and then.

use std::f64::consts::TAU;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Quantity {
    /// The last level of the topic.
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    base: f64,
    /// How far the course of the day carries it, up in the afternoon and down at night.
    daily: f64,
    /// How far it wanders, within minutes.
    wander: f64,
    /// The standard deviation from one reading to the next.
    noise: f64,
    /// How far it rises when the device overheats.
    overheat: f64,
    decimals: usize,
}

/// A kind of device: its name and what it measures.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) quantities: &'static [Quantity],
}

const STEADY: Quantity = Quantity {
    name: "",
    unit: "",
    base: 0.0,
    daily: 0.0,
    wander: 0.0,
    noise: 0.0,
    overheat: 0.0,
    decimals: 1,
};

/// The kinds, which the devices are of in turn.
pub(super) const KINDS: [Kind; 4] = [
    Kind {
        name: "boiler",
        quantities: &[
            Quantity {
                name: "temperature",
                unit: "°C",
                base: 72.0,
                daily: 2.0,
                wander: 1.0,
                noise: 0.2,
                overheat: 25.0,
                ..STEADY
            },
            Quantity {
                name: "pressure",
                unit: "bar",
                base: 6.2,
                wander: 0.15,
                noise: 0.03,
                overheat: 1.6,
                decimals: 2,
                ..STEADY
            },
            Quantity {
                name: "flow",
                unit: "l/min",
                base: 118.0,
                daily: 9.0,
                wander: 4.0,
                noise: 1.0,
                ..STEADY
            },
        ],
    },
    Kind {
        name: "pump",
        quantities: &[
            Quantity {
                name: "vibration",
                unit: "mm/s",
                base: 2.4,
                wander: 0.3,
                noise: 0.12,
                decimals: 2,
                ..STEADY
            },
            Quantity {
                name: "flow",
                unit: "l/min",
                base: 340.0,
                daily: 25.0,
                wander: 8.0,
                noise: 2.5,
                ..STEADY
            },
            Quantity {
                name: "temperature",
                unit: "°C",
                base: 46.0,
                daily: 4.0,
                wander: 1.0,
                noise: 0.2,
                ..STEADY
            },
        ],
    },
    Kind {
        name: "compressor",
        quantities: &[
            Quantity {
                name: "pressure",
                unit: "bar",
                base: 8.0,
                wander: 0.3,
                noise: 0.05,
                decimals: 2,
                ..STEADY
            },
            Quantity {
                name: "vibration",
                unit: "mm/s",
                base: 3.8,
                wander: 0.4,
                noise: 0.2,
                decimals: 2,
                ..STEADY
            },
            Quantity {
                name: "temperature",
                unit: "°C",
                base: 58.0,
                daily: 3.0,
                wander: 1.5,
                noise: 0.3,
                ..STEADY
            },
        ],
    },
    Kind {
        name: "tank",
        quantities: &[
            Quantity {
                name: "temperature",
                unit: "°C",
                base: 21.0,
                daily: 6.0,
                wander: 0.3,
                noise: 0.1,
                ..STEADY
            },
            Quantity {
                name: "pressure",
                unit: "bar",
                base: 1.1,
                daily: 0.04,
                wander: 0.02,
                noise: 0.005,
                decimals: 3,
                ..STEADY
            },
        ],
    },
];

const DAY: f64 = 86_400.0;
/// Seconds over which the wander forgets where it was.
const MEMORY: f64 = 120.0;
/// An overheating device: seconds from one time to the next, and how long it rises, stays and falls.
const CYCLE: f64 = 75.0;
const FIRST: f64 = 12.0;
const RISE: f64 = 6.0;
const STAY: f64 = 20.0;
const FALL: f64 = 8.0;

/// One quantity of one device, as a sensor reads it.
#[derive(Debug)]
pub(super) struct Signal {
    pub(super) quantity: Quantity,
    random: fastrand::Rng,
    /// In units of the quantity's `wander`.
    wander: f64,
    last: f64,
}

impl Signal {
    /// The same seed gives the same signal.
    pub(super) fn new(quantity: Quantity, seed: u64) -> Self {
        Self { quantity, random: fastrand::Rng::with_seed(seed), wander: 0.0, last: 0.0 }
    }

    /// The reading `elapsed` seconds after the start, which was `of_day` seconds after midnight.
    pub(super) fn read(&mut self, elapsed: f64, of_day: f64) -> f64 {
        let Quantity { base, daily, wander, noise, overheat, .. } = self.quantity;
        let step = ((elapsed - self.last) / MEMORY).clamp(0.0, 1.0);
        self.last = elapsed;
        // An Ornstein-Uhlenbeck process with a standard deviation of about one, held within three.
        self.wander += (2.0 * step).sqrt() * self.normal() - step * self.wander;
        self.wander = self.wander.clamp(-3.0, 3.0);
        // Warmest at three in the afternoon.
        let course = (TAU * ((of_day + elapsed) / DAY - 0.375)).sin();
        base + daily * course
            + wander * self.wander
            + noise * self.normal()
            + overheat * overheating(elapsed)
    }

    /// The reading as an event's payload: `{"value":71.3,"unit":"°C"}`.
    pub(super) fn payload(&mut self, elapsed: f64, of_day: f64) -> String {
        let value = self.read(elapsed, of_day);
        let Quantity { unit, decimals, .. } = self.quantity;
        format!("{{\"value\":{value:.decimals$},\"unit\":\"{unit}\"}}")
    }

    /// Normally distributed, mean 0 and deviation 1 (Irwin-Hall: the sum of twelve uniform ones).
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.random.f64()).sum::<f64>() - 6.0
    }
}

/// How far overheated: 0 not at all, 1 fully.
fn overheating(elapsed: f64) -> f64 {
    let at = (elapsed - FIRST).rem_euclid(CYCLE);
    if elapsed < FIRST || at >= RISE + STAY + FALL {
        0.0
    } else if at < RISE {
        at / RISE
    } else if at < RISE + STAY {
        1.0
    } else {
        1.0 - (at - RISE - STAY) / FALL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(quantity: Quantity, seed: u64, of_day: f64, seconds: u32) -> Vec<f64> {
        let mut signal = Signal::new(quantity, seed);
        (0..seconds).map(|second| signal.read(f64::from(second), of_day)).collect()
    }

    const BOILER: Quantity = KINDS[0].quantities[0];

    #[test]
    fn a_seed_gives_the_same_signal_and_another_one_does_not() {
        assert_eq!(readings(BOILER, 7, 0.0, 100), readings(BOILER, 7, 0.0, 100));
        assert_ne!(readings(BOILER, 7, 0.0, 100), readings(BOILER, 8, 0.0, 100));
    }

    // So that a rule `raise = "> 90"`, `clear = "< 85"`, `for = "10s"` fires and clears, at any hour.
    #[test]
    fn a_boiler_is_above_90_for_more_than_ten_seconds_and_below_85_in_between() {
        for seed in 0..50 {
            for hour in [3.0, 9.0, 15.0, 21.0] {
                let readings = readings(BOILER, seed, hour * 3600.0, 600);
                let (mut longest, mut run, mut raised) = (0, 0, 0);
                let mut armed = true;
                for value in &readings {
                    run = if *value > 90.0 { run + 1 } else { 0 };
                    longest = longest.max(run);
                    if run == 10 && armed {
                        raised += 1;
                        armed = false;
                    }
                    armed |= *value < 85.0;
                }
                assert!(longest > 12, "seed {seed}, {hour} h: {longest} s above 90");
                assert_eq!(raised, 8, "seed {seed}, {hour} h");
            }
        }
    }

    #[test]
    fn nothing_else_is_ever_mistaken_for_an_overheated_boiler() {
        for quantity in KINDS[1..].iter().flat_map(|kind| kind.quantities) {
            if quantity.name == "temperature" {
                assert!(readings(*quantity, 1, 54_000.0, 3600).iter().all(|value| *value < 80.0));
            }
        }
    }

    #[test]
    fn the_afternoon_is_warmer_than_the_night() {
        let tank = KINDS[3].quantities[0];
        let mean = |of_day| readings(tank, 1, of_day, 600).iter().sum::<f64>() / 600.0;
        assert!(mean(15.0 * 3600.0) - mean(3.0 * 3600.0) > 10.0);
    }

    #[test]
    fn readings_stay_plausible() {
        for quantity in KINDS.iter().flat_map(|kind| kind.quantities) {
            let readings = readings(*quantity, 3, 0.0, 3600);
            assert!(readings.iter().all(|value| *value > 0.0), "{quantity:?}");
            assert!(readings.windows(2).any(|pair| pair[0] != pair[1]), "{quantity:?}");
        }
    }

    #[test]
    fn a_payload_is_json_with_its_unit() {
        let payload = Signal::new(BOILER, 1).payload(0.0, 0.0);
        let value: serde_json::Value = serde_json::from_str(&payload).unwrap();
        assert!(value["value"].as_f64().unwrap() > 60.0, "{payload}");
        assert_eq!(value["unit"], "°C");
    }
}
