//! What of a function is accepted and makes no difference here, or a smaller one than elsewhere. It is said once, when the
//! function is defined: an option that is ignored in silence is looked for in the wrong place later.
//!
//! What would make the program do something else is refused instead ([`crate::definition`]).

use client_protocol::wire;
use client_protocol::wire::warning::WarningType;

use crate::caller::ClientVersion;
use crate::definition::Definition;

/// Older clients show no warning of a definition's.
const FIRST_TO_SHOW: ClientVersion = ClientVersion(1, 0, 0);

pub fn shows_warnings(client: ClientVersion) -> bool {
    client >= FIRST_TO_SHOW
}

/// One sentence for each thing, on a machine with so many thousandths of a core.
pub fn warnings(definition: &Definition, milli_cpu_here: u64) -> Vec<wire::Warning> {
    let f = &definition.view;
    let name = f.function_name.trim_end_matches(".*");
    let said =
        |kind: WarningType, what: String| wire::Warning { r#type: kind as i32, message: format!("`{name}`: {what}") };
    let configuration = |what| said(WarningType::FunctionConfiguration, what);
    let mut all = Vec::new();
    let asked = u64::from(definition.resources().milli_cpu);
    if asked > milli_cpu_here {
        let [asked, here] = [asked, milli_cpu_here].map(|milli| milli as f64 / 1000.0);
        let what =
            format!("`cpu={asked}` is more than this machine has; it runs on {here} CPU, one container at a time");
        all.push(said(WarningType::ResourceLimit, what));
    }
    if f.checkpointing_enabled {
        all.push(configuration(
            "memory snapshots are not taken by this version of Dorian; every container starts plainly, and runs its \
             `snap=True` hooks first"
                .to_owned(),
        ));
    }
    let places = places(f);
    if !places.is_empty() {
        all.push(configuration(format!("{} here: there is one place, this machine", change_nothing(&places))));
    }
    let others = without_effect(f);
    if !others.is_empty() {
        all.push(configuration(format!("{} in this version of Dorian", change_nothing(&others))));
    }
    all
}

/// Options about where a container runs.
fn places(f: &wire::Function) -> Vec<&'static str> {
    let placement = f.scheduler_placement.clone().unwrap_or_default();
    let is_experimental =
        placement.zone.is_some() || placement.lifecycle.is_some() || !placement.instance_types.is_empty();
    let options = [
        (!placement.regions.is_empty() || placement.region.is_some(), "`region=`"),
        (!matches!(f.cloud_provider_str.as_str(), "" | "auto"), "`cloud=`"),
        (placement.nonpreemptible, "`nonpreemptible=`"),
        (!f.routing_region.is_empty(), "`routing_region=`"),
        (is_experimental, "`_experimental_scheduler_placement=`"),
    ];
    present(&options)
}

/// Options that nothing here reads.
fn without_effect(f: &wire::Function) -> Vec<&'static str> {
    let options = [
        (!f.experimental_options.is_empty(), "`experimental_options=`"),
        // One input for each container is served.
        (f.max_inputs > 1, "`max_inputs=`"),
        (f.resources.as_ref().is_some_and(|resources| resources.rdma), "`rdma=`"),
    ];
    present(&options)
}

fn present(options: &[(bool, &'static str)]) -> Vec<&'static str> {
    options.iter().filter(|(is_present, _)| *is_present).map(|(_, option)| *option).collect()
}

/// "`a`, `b` and `c` change nothing".
fn change_nothing(options: &[&str]) -> String {
    match options {
        [one] => format!("{one} changes nothing"),
        [first @ .., last] => format!("{} and {last} change nothing", first.join(", ")),
        [] => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use client_protocol::Passthrough;
    use types::ids::DefinitionId;

    use super::*;

    fn said(function: &wire::Function) -> Vec<String> {
        let raw = Passthrough::from_message(function);
        let definition = Definition::new(DefinitionId::random(), raw, ClientVersion(1, 6, 4)).unwrap();
        warnings(&definition, 2_000).into_iter().map(|warning| warning.message).collect()
    }

    fn named() -> wire::Function {
        wire::Function { function_name: "Model.*".into(), ..Default::default() }
    }

    #[test]
    fn more_cpu_than_the_machine_has_is_said_in_one_line() {
        let asking = |milli_cpu| {
            let resources = Some(wire::Resources { milli_cpu, ..Default::default() });
            said(&wire::Function { resources, ..named() })
        };
        let told = "`Model`: `cpu=4` is more than this machine has; it runs on 2 CPU, one container at a time";
        assert_eq!(asking(4_000), [told]);
        assert!(asking(2_000).is_empty());
    }

    #[test]
    fn options_about_the_place_are_named_together_and_those_that_ask_for_nothing_are_not() {
        let placement =
            wire::SchedulerPlacement { regions: vec!["eu".into()], nonpreemptible: true, ..Default::default() };
        let function = wire::Function {
            scheduler_placement: Some(placement),
            cloud_provider_str: "aws".into(),
            routing_region: "eu-west".into(),
            ..named()
        };
        assert_eq!(
            said(&function),
            [
                "`Model`: `region=`, `cloud=`, `nonpreemptible=` and `routing_region=` change nothing here: there is one \
              place, this machine"
            ]
        );
        let placement = Some(wire::SchedulerPlacement::default());
        let plain = wire::Function { cloud_provider_str: "auto".into(), scheduler_placement: placement, ..named() };
        assert!(said(&plain).is_empty());
    }

    #[test]
    fn options_that_nothing_reads_and_memory_snapshots_are_said() {
        let options = [("vpn".to_owned(), "on".to_owned())].into_iter().collect();
        let function =
            wire::Function { experimental_options: options, max_inputs: 5, checkpointing_enabled: true, ..named() };
        let told = said(&function);
        assert!(told[0].contains("memory snapshots are not taken"), "{told:?}");
        let nothing = "`Model`: `experimental_options=` and `max_inputs=` change nothing in this version of Dorian";
        assert_eq!(told[1], nothing);
        assert!(said(&wire::Function { max_inputs: 1, ..named() }).is_empty());
    }
}
