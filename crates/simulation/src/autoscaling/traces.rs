//! The arrival traces: fifteen minutes each, from a fixed seed.

use calls::Millis;

use crate::random::Random;

pub(super) const LENGTH_MS: Millis = 900_000;
/// Within one step at most one input arrives, so no trace is busier than a hundred a second.
const STEP_MS: Millis = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trace {
    Steady,
    Burst,
    Ramp,
    Sawtooth,
    DayAndNight,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    pub(super) at: Millis,
    pub(super) takes_ms: Millis,
}

impl Trace {
    pub const ALL: [Self; 5] = [Self::Steady, Self::Burst, Self::Ramp, Self::Sawtooth, Self::DayAndNight];

    pub fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Burst => "burst",
            Self::Ramp => "ramp",
            Self::Sawtooth => "sawtooth",
            Self::DayAndNight => "day/night",
        }
    }

    pub fn describe(self) -> &'static str {
        match self {
            Self::Steady => "5 inputs a second of 0.2 to 1 s",
            Self::Burst => "an input of 1 to 3 s every 10 s, and 60 more within two seconds every 3 minutes",
            Self::Ramp => "from none to 10 a second within 15 minutes, inputs of 0.5 to 1.5 s",
            Self::Sawtooth => "every 2 minutes from none to 8 a second, then none again; inputs of 0.2 to 1 s",
            Self::DayAndNight => {
                "from none to 8 a second and back within 10 minutes, then 5 minutes of an input in 50 s; 0.5 to 1.5 s each"
            }
        }
    }

    /// Inputs per second at a time.
    fn rate(self, at: Millis) -> f64 {
        let seconds = at as f64 / 1000.0;
        match self {
            Self::Steady => 5.0,
            Self::Burst if at % 180_000 >= 60_000 && at % 180_000 < 62_000 => 30.0,
            Self::Burst => 0.1,
            Self::Ramp => seconds / 90.0,
            Self::Sawtooth => (seconds % 120.0) / 15.0,
            Self::DayAndNight if seconds < 600.0 => {
                // A parabola: like the sine, and the same on every machine to the last bit.
                let noon = (seconds - 300.0) / 300.0;
                8.0 * (1.0 - noon * noon)
            }
            Self::DayAndNight => 0.02,
        }
    }

    fn takes_ms(self) -> (Millis, Millis) {
        match self {
            Self::Steady | Self::Sawtooth => (200, 1_000),
            Self::Burst => (1_000, 3_000),
            Self::Ramp | Self::DayAndNight => (500, 1_500),
        }
    }

    pub(super) fn arrivals(self, seed: u64) -> Vec<Arrival> {
        let mut random = Random::new(seed ^ 0xA0_705C);
        let (low, high) = self.takes_ms();
        let mut arrivals = Vec::new();
        for step in (0..LENGTH_MS).step_by(STEP_MS as usize) {
            if random.chance(self.rate(step) * STEP_MS as f64 / 1000.0) {
                let at = step + random.between(0, STEP_MS - 1);
                arrivals.push(Arrival { at, takes_ms: random.between(low, high) });
            }
        }
        arrivals
    }
}
