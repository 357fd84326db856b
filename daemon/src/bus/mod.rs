//! Live fan-out: durable events to the MQTT sessions that subscribed, in LSN order.
