//! Passwords: hashing and verifying with argon2id, stored as PHC strings
//! (`$argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>`).
//!
//! A failed login must take the same time whether the user is unknown, locked or throttled, or the password is wrong
//! (protocol.md section 7). Stored hashes keep the cost they were made with until their owner's next login replaces
//! them ([`VerifyOutcome::Match`] with `rehash`), so several costs may be in use. Each failure therefore computes one
//! hash of every cost in use ([`Costs`]): the stored hash and dummies of the other costs, or dummies only
//! ([`Hasher::dummy`]). If the configuration never changes, that is a single hash. Stored hashes are not trusted: one
//! whose parameters are beyond the bounds below is never computed.

use std::fmt;

use argon2::password_hash::phc::{Decimal, Ident, Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use cp_proto::values::Password;

/// Least memory of one hash, in KiB: that of argon2 itself.
pub const MEMORY_MIN_KIB: u32 = 8;
/// Most memory of one hash, in KiB.
pub const MEMORY_MAX_KIB: u32 = 1024 * 1024;
/// Fewest passes over the memory.
pub const ITERATIONS_MIN: u32 = 1;
/// Most passes over the memory.
pub const ITERATIONS_MAX: u32 = 1000;
/// Most work of one hash, in KiB times passes: some seconds on one core.
pub const WORK_MAX_KIB: u64 = 4 * 1024 * 1024;
/// Length of the output of new hashes, in bytes.
pub const OUTPUT_BYTES: usize = 32;
/// Shortest output of a stored hash that is accepted, in bytes.
pub const OUTPUT_MIN_BYTES: usize = 16;
/// Longest output of a stored hash that is accepted, in bytes.
pub const OUTPUT_MAX_BYTES: usize = 64;
/// Length of the random salt of new hashes, in bytes.
pub const SALT_BYTES: usize = 16;
/// How many older costs a failed login imitates. A stored hash of any other cost takes additional time, which can be
/// measured from outside.
pub const OLDER_COSTS_MAX: usize = 4;
/// How many different costs are counted in order to find the most frequent ones.
const COSTS_COUNTED_MAX: usize = 64;
/// Longest PHC string that is parsed, in bytes.
pub const PHC_MAX_BYTES: usize = 256;

const LANES: u32 = 1;
/// Parsed by a dummy verification, as long as what is stored; nothing is compared with it.
const DUMMY_PHC: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

const _: () = assert!(MEMORY_MIN_KIB >= Params::MIN_M_COST && ITERATIONS_MIN >= Params::MIN_T_COST);
const _: () = assert!(MEMORY_MAX_KIB as u64 <= WORK_MAX_KIB);
const _: () = assert!(OUTPUT_MIN_BYTES <= OUTPUT_BYTES && OUTPUT_BYTES <= OUTPUT_MAX_BYTES);

/// The cost of a hash, always within the bounds above.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HashParams {
    memory_kib: u32,
    iterations: u32,
}

impl HashParams {
    /// Returns `None` if one of the numbers or their product is beyond the bounds.
    pub const fn new(memory_kib: u32, iterations: u32) -> Option<HashParams> {
        if memory_kib < MEMORY_MIN_KIB
            || memory_kib > MEMORY_MAX_KIB
            || iterations < ITERATIONS_MIN
            || iterations > ITERATIONS_MAX
            || memory_kib as u64 * iterations as u64 > WORK_MAX_KIB
        {
            return None;
        }
        Some(HashParams { memory_kib, iterations })
    }

    /// Memory in KiB.
    pub fn memory_kib(self) -> u32 {
        self.memory_kib
    }

    /// Passes over the memory.
    pub fn iterations(self) -> u32 {
        self.iterations
    }

    /// Whether this is weaker than the minimum recommended for argon2id: 7 MiB with 5 passes, or more memory with fewer
    /// passes.
    pub fn is_weak(self) -> bool {
        const LEAST_MEMORY_KIB: u32 = 7168;
        const LEAST_WORK_KIB: u64 = 5 * LEAST_MEMORY_KIB as u64;
        self.memory_kib < LEAST_MEMORY_KIB || u64::from(self.memory_kib) * u64::from(self.iterations) < LEAST_WORK_KIB
    }

    fn argon2(self, output_bytes: usize) -> Result<Argon2<'static>, AuthError> {
        let params = Params::new(self.memory_kib, self.iterations, LANES, Some(output_bytes));
        let params = params.map_err(|_| AuthError::Unusable)?;
        Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
    }
}

impl Default for HashParams {
    fn default() -> HashParams {
        HashParams { memory_kib: 19_456, iterations: 2 }
    }
}

/// The costs in use: the current one, and older ones that stored hashes still have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Costs {
    current: HashParams,
    older: Vec<HashParams>,
}

impl Costs {
    /// Takes the older costs from the `stored` PHC strings: the [`OLDER_COSTS_MAX`] most frequent ones.
    pub fn new<'a>(current: HashParams, stored: impl IntoIterator<Item = &'a str>) -> Costs {
        let mut found: Vec<(HashParams, usize)> = Vec::new();
        for params in stored.into_iter().filter_map(StoredHash::parse).map(|stored| stored.params) {
            let room = found.len() < COSTS_COUNTED_MAX;
            match found.iter_mut().find(|(known, _)| *known == params) {
                Some((_, times)) => *times += 1,
                None if params != current && room => found.push((params, 1)),
                None => {}
            }
        }
        found.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
        let older = found.into_iter().map(|(params, _)| params).take(OLDER_COSTS_MAX).collect();
        Costs { current, older }
    }

    /// The cost of new hashes.
    pub fn current(&self) -> HashParams {
        self.current
    }

    /// Makes `current` the cost of new hashes. The one before becomes the first of the older costs.
    pub fn set_current(&mut self, current: HashParams) {
        let before = std::mem::replace(&mut self.current, current);
        self.older.insert(0, before);
        self.older.retain(|older| *older != current);
        self.older.truncate(OLDER_COSTS_MAX);
    }

    /// The current cost, then the older ones.
    fn all(&self) -> impl Iterator<Item = HashParams> {
        std::iter::once(self.current).chain(self.older.iter().copied())
    }

    /// The most memory that a hash of these costs takes, in KiB.
    fn max_memory_kib(&self) -> usize {
        self.all().filter_map(|params| usize::try_from(params.memory_kib).ok()).max().unwrap_or(0)
    }
}

impl From<HashParams> for Costs {
    /// Assumes that no hash of another cost is stored.
    fn from(current: HashParams) -> Costs {
        Costs { current, older: Vec::new() }
    }
}

/// Why a password could not be hashed or verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuthError {
    /// The stored hash is damaged, of another kind, or has parameters beyond the bounds.
    Unusable,
    /// The memory for a hash could not be allocated.
    Memory,
    /// The kernel supplied no random bytes.
    Randomness,
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AuthError::Unusable => "the stored password hash is damaged or beyond the bounds",
            AuthError::Memory => "no memory for a password hash",
            AuthError::Randomness => "no randomness from the kernel",
        })
    }
}

impl std::error::Error for AuthError {}

/// The outcome of a verification.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VerifyOutcome {
    /// The password is right. With `rehash`, the stored hash should be replaced by a new one, see [`needs_rehash`].
    Match { rehash: bool },
    /// The password is wrong.
    Mismatch,
}

/// Computes hashes. It keeps its memory between them, because fresh pages would have to be faulted in for each login.
pub struct Hasher {
    costs: Costs,
    /// Blocks of 1 KiB each.
    memory: Vec<Block>,
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher").field("costs", &self.costs).finish_non_exhaustive()
    }
}

impl Hasher {
    /// Creates a hasher. It allocates memory only for its first hash.
    pub fn new(costs: impl Into<Costs>) -> Hasher {
        Hasher { costs: costs.into(), memory: Vec::new() }
    }

    /// Replaces the costs: of new hashes, and of failed verifications.
    pub fn set_costs(&mut self, costs: Costs) {
        self.costs = costs;
        self.shrink();
    }

    /// Frees the memory until the next hash.
    pub fn release(&mut self) {
        self.memory = Vec::new();
    }

    /// The size of the memory that is kept for the next hash, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.memory.capacity() * Block::SIZE
    }

    /// Returns a PHC string for `password`, with a fresh salt and the current cost.
    ///
    /// # Errors
    /// [`AuthError::Memory`], [`AuthError::Randomness`].
    pub fn hash(&mut self, password: &Password) -> Result<String, AuthError> {
        let mut salt = [0; SALT_BYTES];
        getrandom::fill(&mut salt).map_err(|_| AuthError::Randomness)?;
        let mut output = [0; OUTPUT_BYTES];
        self.compute(self.costs.current, password, &salt, &mut output)?;
        phc_string(self.costs.current, &salt, &output)
    }

    /// Verifies `password` against the PHC string `stored`.
    ///
    /// # Errors
    /// [`AuthError::Unusable`], for which the same work is done as by [`Hasher::dummy`]; [`AuthError::Memory`].
    pub fn verify(&mut self, password: &Password, stored: &str) -> Result<VerifyOutcome, AuthError> {
        let Some(stored) = StoredHash::parse(stored) else {
            self.dummy(password)?;
            return Err(AuthError::Unusable);
        };
        let mut bytes = [0; OUTPUT_MAX_BYTES];
        let output = bytes.get_mut(..stored.output.len()).ok_or(AuthError::Unusable)?;
        self.compute(stored.params, password, stored.salt.as_ref(), output)?;
        // `Output` compares in constant time.
        let verdict = if Output::new(output).is_ok_and(|computed| computed == stored.output) {
            VerifyOutcome::Match { rehash: stored.needs_rehash(self.costs.current) }
        } else {
            self.hash_each_cost(password, Some(stored.params))?;
            VerifyOutcome::Mismatch
        };
        self.shrink();
        Ok(verdict)
    }

    /// Does the same work as a verification that fails. For a user who is unknown, locked or throttled.
    ///
    /// # Errors
    /// [`AuthError::Memory`].
    pub fn dummy(&mut self, password: &Password) -> Result<(), AuthError> {
        std::hint::black_box(StoredHash::parse(std::hint::black_box(DUMMY_PHC)));
        self.hash_each_cost(password, None)
    }

    /// Computes a dummy hash of each cost in use, except for the one that was `done` already.
    fn hash_each_cost(&mut self, password: &Password, done: Option<HashParams>) -> Result<(), AuthError> {
        let costs: Vec<HashParams> = self.costs.all().filter(|params| Some(*params) != done).collect();
        for params in costs {
            let mut output = [0; OUTPUT_BYTES];
            self.compute(params, password, &[0; SALT_BYTES], &mut output)?;
            // A real verification compares as well. The result is not used.
            let zeros = Output::new(&[0; OUTPUT_BYTES]);
            std::hint::black_box(Output::new(&output).ok() == zeros.ok());
        }
        Ok(())
    }

    /// Computes the hash of `password` into `output`, and allocates more memory if needed.
    fn compute(
        &mut self,
        params: HashParams,
        password: &Password,
        salt: &[u8],
        output: &mut [u8],
    ) -> Result<(), AuthError> {
        let argon2 = params.argon2(output.len())?;
        let blocks = argon2.params().block_count();
        if self.memory.len() < blocks {
            let more = blocks - self.memory.len();
            self.memory.try_reserve_exact(more).map_err(|_| AuthError::Memory)?;
            self.memory.resize(blocks, Block::new());
        }
        let memory = self.memory.get_mut(..blocks).ok_or(AuthError::Memory)?;
        let computed = argon2.hash_password_into_with_memory(password.as_bytes(), salt, output, memory);
        computed.map_err(|_| AuthError::Unusable)
    }

    /// Frees the memory beyond what the costs in use need, after a stored hash that needed more.
    fn shrink(&mut self) {
        let wanted = self.costs.max_memory_kib();
        if self.memory.len() > wanted {
            self.memory.truncate(wanted);
            self.memory.shrink_to_fit();
        }
    }
}

/// Whether a successful login should replace the PHC string `stored` by a new one of the cost `current`: its cost is
/// another one, its output has another length, or its salt is too short. `false` if it cannot be verified at all.
pub fn needs_rehash(stored: &str, current: HashParams) -> bool {
    StoredHash::parse(stored).is_some_and(|stored| stored.needs_rehash(current))
}

/// A parsed hash whose parameters are within the bounds.
struct StoredHash {
    params: HashParams,
    salt: Salt,
    output: Output,
}

impl StoredHash {
    /// Returns `None` if `text` is not a hash of argon2id version 19 with one lane, or is beyond the bounds.
    fn parse(text: &str) -> Option<StoredHash> {
        if text.len() > PHC_MAX_BYTES {
            return None;
        }
        let phc = PasswordHash::new(text).ok()?;
        let number = |name: &str| phc.params.get(name).and_then(|value| value.decimal().ok());
        let only_known = phc.params.iter().all(|(name, _)| matches!(name.as_str(), "m" | "t" | "p"));
        let ours = phc.algorithm == argon2::ARGON2ID_IDENT && phc.version == Some(Version::V0x13.into());
        if !ours || !only_known || number("p")? != LANES {
            return None;
        }
        let params = HashParams::new(number("m")?, number("t")?)?;
        let (salt, output) = (phc.salt?, phc.hash?);
        let lengths =
            salt.len() >= argon2::MIN_SALT_LEN && (OUTPUT_MIN_BYTES..=OUTPUT_MAX_BYTES).contains(&output.len());
        lengths.then_some(StoredHash { params, salt, output })
    }

    fn needs_rehash(&self, current: HashParams) -> bool {
        self.params != current || self.output.len() != OUTPUT_BYTES || self.salt.len() < SALT_BYTES
    }
}

fn phc_string(params: HashParams, salt: &[u8], output: &[u8]) -> Result<String, AuthError> {
    let mut shown = ParamsString::new();
    let numbers = [("m", params.memory_kib), ("t", params.iterations), ("p", LANES)];
    for (name, number) in numbers {
        let name = Ident::new(name).map_err(|_| AuthError::Unusable)?;
        let number: Decimal = number;
        shown.add_decimal(name, number).map_err(|_| AuthError::Unusable)?;
    }
    let phc = PasswordHash {
        algorithm: argon2::ARGON2ID_IDENT,
        version: Some(Version::V0x13.into()),
        params: shown,
        salt: Some(Salt::new(salt).map_err(|_| AuthError::Unusable)?),
        hash: Some(Output::new(output).map_err(|_| AuthError::Unusable)?),
    };
    Ok(phc.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::parse(text.as_bytes()).unwrap()
    }

    fn cheap() -> HashParams {
        HashParams::new(64, 1).unwrap()
    }

    #[test]
    fn a_hash_verifies_its_password_only() {
        let mut hasher = Hasher::new(cheap());
        let stored = hasher.hash(&password("secret")).unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{stored}");
        assert!(stored.len() <= PHC_MAX_BYTES);
        assert_eq!(hasher.verify(&password("secret"), &stored), Ok(VerifyOutcome::Match { rehash: false }));
        assert_eq!(hasher.verify(&password("Secret"), &stored), Ok(VerifyOutcome::Mismatch));
        assert_ne!(hasher.hash(&password("secret")).unwrap(), stored, "each hash has a salt of its own");
    }

    #[test]
    fn a_dummy_verification_parses_what_is_like_a_stored_hash() {
        let current = HashParams::default();
        let dummy = StoredHash::parse(DUMMY_PHC).unwrap();
        assert!(!dummy.needs_rehash(current));
        assert_eq!(DUMMY_PHC.len(), phc_string(current, &[7; SALT_BYTES], &[7; OUTPUT_BYTES]).unwrap().len());
    }

    #[test]
    fn hashes_of_the_reference_implementation_verify() {
        // echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1
        let stored = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        let mut hasher = Hasher::new(cheap());
        assert_eq!(hasher.verify(&password("password"), stored), Ok(VerifyOutcome::Match { rehash: true }));
        assert_eq!(hasher.verify(&password("passwore"), stored), Ok(VerifyOutcome::Mismatch));
        assert!(hasher.held_bytes() <= 64 * 1024, "a dear old hash keeps no memory");
    }

    #[test]
    fn another_cost_wants_a_new_hash() {
        let stored = Hasher::new(cheap()).hash(&password("secret")).unwrap();
        let dearer = HashParams::new(128, 2).unwrap();
        let mut hasher = Hasher::new(dearer);
        assert_eq!(hasher.verify(&password("secret"), &stored), Ok(VerifyOutcome::Match { rehash: true }));
        assert!(needs_rehash(&stored, dearer) && !needs_rehash(&stored, cheap()));
        let renewed = hasher.hash(&password("secret")).unwrap();
        assert!(!needs_rehash(&renewed, dearer));
    }

    #[test]
    fn a_failure_costs_a_hash_of_every_cost_in_use_whoever_it_is() {
        let params = |memory| HashParams::new(memory, 1).unwrap();
        let stored: Vec<String> = [64, 64, 256]
            .iter()
            .map(|memory| Hasher::new(params(*memory)).hash(&password("secret")).unwrap())
            .collect();
        let costs = Costs::new(params(128), stored.iter().map(String::as_str).chain(["junk"]));
        assert_eq!(costs.older, [params(64), params(256)], "the most frequent first");
        let mut hasher = Hasher::new(costs);
        // The memory that is held afterwards shows the highest cost that was computed.
        let held = |hasher: &mut Hasher, work: &dyn Fn(&mut Hasher)| {
            hasher.release();
            work(hasher);
            hasher.held_bytes() / 1024
        };
        assert_eq!(held(&mut hasher, &|h| h.dummy(&password("x")).unwrap()), 256);
        for stored in &stored {
            assert_eq!(
                held(&mut hasher, &|h| assert_eq!(h.verify(&password("x"), stored), Ok(VerifyOutcome::Mismatch))),
                256
            );
        }
        let right = |h: &mut Hasher| {
            assert_eq!(h.verify(&password("secret"), &stored[0]), Ok(VerifyOutcome::Match { rehash: true }))
        };
        assert_eq!(held(&mut hasher, &right), 64, "who gets in does not wait for it");
        hasher.set_costs(params(128).into());
        assert_eq!(held(&mut hasher, &|h| h.dummy(&password("x")).unwrap()), 128);
    }

    #[test]
    fn earlier_costs_stay_in_use_and_are_bounded() {
        let params = |memory| HashParams::new(memory, 1).unwrap();
        let mut costs = Costs::from(params(8));
        for memory in 9..=20 {
            costs.set_current(params(memory));
        }
        assert_eq!(costs.current(), params(20));
        assert_eq!(costs.older, [19, 18, 17, 16].map(params));
        costs.set_current(params(18));
        assert_eq!((costs.current(), costs.older.as_slice()), (params(18), [20, 19, 17, 16].map(params).as_slice()));
        costs.set_current(params(18));
        assert_eq!(costs.older, [20, 19, 17, 16].map(params), "nothing has changed");
    }

    #[test]
    fn hostile_or_damaged_hashes_are_refused_before_any_memory_is_taken() {
        let tail = "$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        let head = "$argon2id$v=19$";
        let mut hostile: Vec<String> = [
            "m=4294967295,t=1,p=1",
            "m=1048577,t=1,p=1",
            "m=64,t=4294967295,p=1",
            "m=1048576,t=1000,p=1",
            "m=64,t=1,p=2",
            "m=16777215,t=1,p=16777215",
            "m=64,t=0,p=1",
            "m=7,t=1,p=1",
            "m=64,t=1",
            "m=64,t=1,p=1,keyid=AAAA",
            "m=64,t=1,p=1,data=AAAA",
            "m=-1,t=1,p=1",
        ]
        .iter()
        .map(|params| format!("{head}{params}{tail}"))
        .collect();
        hostile.extend([
            format!("$argon2i$v=19$m=64,t=1,p=1{tail}"),
            format!("$argon2id$v=16$m=64,t=1,p=1{tail}"),
            format!("$argon2id$m=64,t=1,p=1{tail}"),
            format!("{head}m=64,t=1,p=1$c29tZXNhbHQ"),
            format!("{head}m=64,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaM"),
            format!("{head}m=64,t=1,p=1$c2FsdA$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"),
            format!("{head}m=64,t=1,p=1{tail}$x"),
            "x".repeat(PHC_MAX_BYTES + 1),
            String::new(),
            String::from("$"),
            String::from("plain"),
        ]);
        for stored in &hostile {
            let mut hasher = Hasher::new(cheap());
            assert_eq!(hasher.verify(&password("password"), stored), Err(AuthError::Unusable), "{stored}");
            assert_eq!(hasher.held_bytes(), 64 * 1024, "the dummy's work was done, and no more: {stored}");
            assert!(!needs_rehash(stored, cheap()));
        }
    }

    #[test]
    fn memory_is_kept_between_hashes_and_given_back() {
        let mut hasher = Hasher::new(cheap());
        assert_eq!(hasher.held_bytes(), 0);
        hasher.dummy(&password("x")).unwrap();
        let (at, held) = (hasher.memory.as_ptr(), hasher.held_bytes());
        assert_eq!(held, 64 * 1024);
        let stored = hasher.hash(&password("x")).unwrap();
        hasher.verify(&password("y"), &stored).unwrap();
        assert_eq!((hasher.memory.as_ptr(), hasher.held_bytes()), (at, held));
        hasher.release();
        assert_eq!(hasher.held_bytes(), 0);
    }

    #[test]
    fn bounds_hold_for_each_and_for_the_product() {
        assert!(HashParams::new(8, 1).is_some() && HashParams::new(MEMORY_MAX_KIB, 4).is_some());
        assert!(HashParams::new(7, 1).is_none() && HashParams::new(8, 0).is_none());
        assert!(HashParams::new(MEMORY_MAX_KIB + 1, 1).is_none() && HashParams::new(8, ITERATIONS_MAX + 1).is_none());
        assert!(HashParams::new(MEMORY_MAX_KIB, 5).is_none());
        assert!(HashParams::new(8, 1).unwrap().is_weak() && !HashParams::default().is_weak());
        let default = HashParams::default();
        assert_eq!(HashParams::new(default.memory_kib, default.iterations), Some(default));
    }
}
