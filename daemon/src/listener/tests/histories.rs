//! Random histories of clients and of the daemon, compared with what MQTT allows: whatever is
//! acknowledged reaches every session that was subscribed, as often and in the order that its QoS
//! says, whenever a connection drops, the daemon is killed or the power goes.
//!
//! `PROPERTY_SEED` repeats one history; `PROPERTY_HISTORIES` says how many there are. What the clients do
//! depends on the seed alone; when the log's writer gets to it does not, so that a failure may take a
//! few runs to come again.

mod life;
mod link;
mod model;
mod publisher;
mod world;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

const HISTORIES: u64 = 12;

thread_local! {
    /// What has happened, to be told when something is wrong.
    static STORY: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

fn tell(what: String) {
    STORY.with_borrow_mut(|story| story.push(what));
}

#[test]
fn no_history_breaks_what_mqtt_promises() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = match number("PROPERTY_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("PROPERTY_HISTORIES").unwrap_or(HISTORIES),
    };
    let (mut histories, mut steps) = (0, 0);
    for seed in seeds {
        STORY.take();
        match catch_unwind(AssertUnwindSafe(|| world::history(seed))) {
            Ok(took) => steps += took,
            Err(panic) => {
                STORY.take().iter().for_each(|line| println!("{line}"));
                println!("PROPERTY_SEED={seed} repeats this");
                resume_unwind(panic);
            }
        }
        histories += 1;
    }
    println!("{histories} histories, {steps} steps");
}
