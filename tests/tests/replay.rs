//! Recorded data through the whole path: a year of hourly temperatures in San Francisco.

use std::fs;

use tidegate_tests::clients::{installed, succeed};
use tidegate_tests::gateway::Gateway;
use tidegate_tests::receiver::Receiver;
use tidegate_tests::site::crate_dir;
use tidegate_tests::wait::{LATER, eventually};

#[test]
fn every_row_of_a_year_of_temperatures_arrives_once_in_order_with_its_value() {
    let source = crate_dir().join("node/node_modules/vega-datasets/data/sf-temps.csv");
    let csv = fs::read_to_string(installed(source)).unwrap();
    let rows: Vec<(&str, f64)> = csv
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(','))
        .map(|(date, temp)| (date, temp.parse().unwrap()))
        .collect();
    assert!(rows.len() > 8700, "a year has 8760 hours, the file {} rows", rows.len());

    let receiver = Receiver::start();
    let mut gateway = Gateway::start(&receiver.sink());
    let file = gateway.site().write("sf-temps.csv", &csv);
    let mut simulate = gateway.site().tidegate(["simulate", "--broker"]);
    simulate.arg(gateway.mqtt().to_string()).arg("--replay").arg(file);
    simulate.args(["--topic", "city/san-francisco/temperature", "--speed", "max"]);
    succeed(&mut simulate);

    eventually("every row upstream", LATER, || receiver.stored() >= rows.len() as u64);
    let events = receiver.events();
    assert_eq!(events.len(), rows.len());
    for (event, (date, temp)) in events.iter().zip(&rows) {
        assert_eq!(event["subject"], "city/san-francisco/temperature");
        assert_eq!(event["data"]["date"], *date);
        assert_eq!(event["data"]["temp"], *temp);
    }
    assert_eq!(receiver.missing(), 0);
    gateway.stop();
}
