//! Owners of files, and who programs run as: the ids that containers have.

/// The largest id of a user or group in a container. Images, volumes and programs may use every id up to here. Kubernetes
/// goes exactly as far, so what OpenShift and directories hand out is included. Each id inside needs one outside; much
/// beyond this the machine would not have enough of them left for itself.
pub const LARGEST_ID: u32 = i32::MAX as u32;

/// The id, if a container can have it, or why it cannot. What archives and instructions name may be any number.
pub fn of_container(id: u64) -> Result<u32, String> {
    let known = u32::try_from(id).ok().filter(|id| *id <= LARGEST_ID);
    known.ok_or_else(|| format!("the id {id} is above {LARGEST_ID}, the largest of users and groups in containers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_up_to_the_largest_are_those_of_containers_and_others_are_refused_with_the_limit() {
        for id in [0, 65_536, 1_000_650_000, 2_147_483_647] {
            assert_eq!(of_container(id).map(u64::from), Ok(id));
        }
        for id in [2_147_483_648, u64::from(u32::MAX), u64::MAX] {
            let refused = of_container(id).unwrap_err();
            assert!(refused.contains(&id.to_string()) && refused.contains("2147483647"), "{refused}");
        }
    }
}
