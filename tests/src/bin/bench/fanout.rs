//! Acknowledgements while subscribers listen: beside mosquitto, and beside rumqttd as shipped.

use std::time::{Duration, Instant};

use tidegate_tests::load::{Audience, Fleet, Run, Shape};
use tidegate_tests::table::{Goal, Table, figure, median, range};

use crate::Plan;
use crate::broker::{Broker, Kind, rotate};

/// A broker that has delivered nothing for so long has delivered what it will.
const SILENCE: Duration = Duration::from_millis(500);
/// The longest wait for that.
const LIMIT: Duration = Duration::from_secs(30);

/// What one broker did, a value a round.
#[derive(Debug, Default)]
struct Figures {
    acknowledged: Vec<f64>,
    delivered: Vec<f64>,
    /// Of what was published, what each subscriber got, in percent.
    share: Vec<f64>,
}

/// Flat out, with `subscribers` at QoS 0 on everything.
pub(crate) fn fan_out(plan: &Plan, subscribers: usize, table: &mut Table) {
    println!("\nflat out with {subscribers} subscriber(s) at QoS 0");
    let [mut gateway, mut mosquitto, mut rumqttd] = [const { None::<Figures> }; 3];
    for round in 0..plan.rounds {
        for kind in rotate(round) {
            let figures = match kind {
                Kind::Tidegate => &mut gateway,
                Kind::Mosquitto => &mut mosquitto,
                Kind::Rumqttd => &mut rumqttd,
            };
            once(kind, plan, subscribers, figures.get_or_insert_default());
        }
    }
    let all = [gateway, mosquitto, rumqttd].map(Option::unwrap_or_default);
    for (name, figures) in ["tidegate, durable", "mosquitto", "rumqttd as shipped"].iter().zip(&all)
    {
        let beside = format!(
            "{}; delivered {}/s to all, {} % of what was published",
            range(&figures.acknowledged),
            figure(median(&figures.delivered)),
            figure(median(&figures.share)),
        );
        let what = format!("acks beside {subscribers}, {name}");
        table.row(what, (median(&figures.acknowledged), "/s"), beside, Goal::None);
    }
    let [gateway, mosquitto, rumqttd] = all.map(|figures| median(&figures.acknowledged));
    let goal = |least| if subscribers == 1 { Goal::AtLeast(least) } else { Goal::None };
    table.row(format!("÷ mosquitto, {subscribers}"), (gateway / mosquitto, "×"), "", goal(1.5));
    table.row(format!("÷ rumqttd, {subscribers}"), (gateway / rumqttd, "×"), "", goal(0.6));
}

fn once(kind: Kind, plan: &Plan, subscribers: usize, figures: &mut Figures) {
    let broker = Broker::start(kind, &plan.dir);
    let audience = Audience::connect(broker.address(), subscribers);
    let mut fleet = match Fleet::connect(broker.address(), &Shape::default()) {
        Ok(fleet) => fleet,
        Err(error) => panic!("cannot connect to {kind:?}: {error}"),
    };
    let warm_up = fleet.run(Run::time(plan.flat_out / 4));
    assert_eq!(warm_up.broken, None, "{kind:?}");
    settle(&audience);
    let (before, begin) = (audience.delivered(), Instant::now());
    let report = fleet.run(Run::time(plan.flat_out));
    assert_eq!(report.broken, None, "{kind:?}");
    let at_the_end = audience.delivered() - before;
    let elapsed = begin.elapsed().as_secs_f64();
    settle(&audience);
    let delivered = audience.delivered() - before;
    figures.acknowledged.push(report.rate());
    figures.delivered.push(at_the_end as f64 / elapsed);
    figures.share.push(100.0 * delivered as f64 / (report.sent * subscribers as u64) as f64);
    if let Err(error) = audience.leave() {
        println!("  {kind:?} lost a subscriber: {error}");
    }
}

/// Waits until nothing more is delivered.
fn settle(audience: &Audience) {
    let begin = Instant::now();
    let mut last = (audience.delivered(), Instant::now());
    while last.1.elapsed() < SILENCE && begin.elapsed() < LIMIT {
        std::thread::park_timeout(Duration::from_millis(20));
        let now = audience.delivered();
        if now != last.0 {
            last = (now, Instant::now());
        }
    }
}
