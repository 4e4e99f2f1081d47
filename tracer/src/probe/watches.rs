//! Watches kernel functions: tries what [`functions::plan`] says until the kernel takes one, and
//! keeps what holds it. What does not work on this kernel at all is found by trying, once.

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, OnceLock},
    thread,
    time::Instant,
};

use tracer_common::point::Point;

use super::{
    btf::{KernelTypes, TypedFunction},
    functions::{self, Attempt, CATALOGUE, Facts, Forms, Function, Missing, Planned},
    lock,
    mechanism::{Mechanism, Mechanisms},
    one_line,
    own::{self, Constants},
    sys::{self, Kind, KprobeSource, Target},
};

/// Attaching and detaching wait for the kernel more than they work: so many at once.
const WORKERS: usize = 16;

/// What this kernel says of a watched function.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The line of the catalogue.
    pub function: &'static Function,
    /// What watches it, or why nothing does.
    pub how: Result<Attempt, String>,
    /// The module that it waits for: it is watched as soon as that is loaded.
    pub waits_for: Option<&'static str>,
}

/// The watched functions. Their programs are detached with this value.
pub struct Watches {
    kernel: Kernel,
    allowed: Mechanisms,
    constants: Constants,
    watches: Vec<Watch>,
    /// As `/proc/modules` was when last looked at.
    modules: BTreeSet<String>,
}

impl Watches {
    /// Plans what to watch; nothing is loaded yet.
    pub fn plan(
        own: Arc<own::Programs>,
        types: &KernelTypes,
        constants: Constants,
        allowed: Mechanisms,
    ) -> Self {
        let modules = loaded_modules();
        let mut facts = facts(&own, types, modules.clone());
        let kernel = Kernel::try_mechanisms(own, types, &mut facts, allowed);
        let planned = functions::plan(CATALOGUE, &facts, allowed);
        let watches = planned.into_iter().map(Watch::new).collect();
        Self { kernel, allowed, constants, watches, modules }
    }

    /// What is to be done to load each, in parallel with whatever else is loaded.
    pub fn loading(&mut self) -> impl Iterator<Item = impl FnOnce() + Send + '_> {
        let kernel = &self.kernel;
        self.watches.iter_mut().map(move |watch| move || watch.load(kernel))
    }

    /// Attaches what is loaded. What cannot be attached by one mechanism is tried by the next.
    pub fn attach(&mut self) {
        let kernel = &self.kernel;
        let waiting: Vec<_> = self.watches.iter_mut().filter(|w| w.is_loaded()).collect();
        let (many, began) = (waiting.len(), Instant::now());
        in_parallel(waiting, |watch| watch.attach(kernel));
        log::info!("attached to {many} kernel functions in {:?}", began.elapsed());
    }

    /// Watches functions of modules that were loaded since; whether modules came or went. Cheap
    /// when none did.
    pub fn attach_late(&mut self) -> bool {
        let modules = loaded_modules();
        if modules == self.modules {
            return false;
        }
        // A module that is gone took its kprobes along.
        for watch in &mut self.watches {
            if let Some(module) = watch.function.module
                && self.modules.contains(module)
                && !modules.contains(module)
            {
                let attempts = Err(Missing::Module(module));
                let refused = Vec::new();
                *watch = Watch::new(Planned { function: watch.function, attempts, refused });
            }
        }
        self.modules = modules;
        let modules = &self.modules;
        if !self.watches.iter().any(|watch| watch.waits_for(modules)) {
            return true;
        }
        let types = match KernelTypes::read() {
            Ok(types) => types,
            Err(e) => {
                log::warn!("functions of new modules are not watched: {e:#}");
                return true;
            }
        };
        let mut facts = facts(&self.kernel.own, &types, self.modules.clone());
        facts.refused = lock(&self.kernel.refused).clone();
        self.kernel.learn(&types);
        self.renew_constants(&types);
        let modules = &self.modules;
        let mut planned = functions::plan(CATALOGUE, &facts, self.allowed);
        for watch in self.watches.iter_mut().filter(|watch| watch.waits_for(modules)) {
            if let Some(at) = planned.iter().position(|new| new.function == watch.function) {
                *watch = Watch::new(planned.swap_remove(at));
                watch.load(&self.kernel);
            }
        }
        self.attach();
        true
    }

    /// A module's structures are known from when it is loaded: what is loaded from now on has them.
    fn renew_constants(&mut self, types: &KernelTypes) {
        let mut constants = self.constants;
        if !constants.know(types) {
            return;
        }
        match self.kernel.own.with(&constants) {
            Ok(own) => {
                self.constants = constants;
                self.kernel.own = Arc::new(own);
                lock(&self.kernel.shared).clear();
            }
            Err(e) => log::warn!("fields of new modules are not read: {e:#}"),
        }
    }

    /// Whether a function that shows this point is watched.
    pub fn sees(&self, point: Point) -> bool {
        self.watched().any(|watched| {
            watched.function.subject == functions::Subject::Point(point) && watched.how.is_ok()
        })
    }

    /// Whether every expression of nftables that sets a verdict is watched, as far as its module is
    /// loaded: what drops and is none of them was the policy.
    pub fn sees_every_rule(&self) -> bool {
        let mut rules = self.watches.iter().filter(|w| w.function.subject == functions::NFT_RULE);
        rules.all(|watch| !watch.links.is_empty() || watch.waits_for.is_some())
            && self.watches.iter().any(|w| w.function.subject == functions::NFT_RULE)
    }

    /// What became of each.
    pub fn watched(&self) -> impl Iterator<Item = Watched> + '_ {
        self.watches.iter().map(|watch| Watched {
            function: watch.function,
            how: watch.how(),
            waits_for: watch.waits_for,
        })
    }

    /// The loaded programs, each once.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let mut programs: Vec<_> = self.watches.iter().flat_map(Watch::descriptors).collect();
        programs.sort_by_key(|program| program.as_raw_fd());
        programs.dedup_by_key(|program| program.as_raw_fd());
        programs.into_iter()
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        // Each waits until no CPU is in the program any more.
        let links = self.watches.iter_mut().flat_map(|watch| std::mem::take(&mut watch.links));
        let links: Vec<_> = links.collect();
        let (many, began) = (links.len(), Instant::now());
        in_parallel(links, drop);
        log::info!("took {many} programs from kernel functions in {:?}", began.elapsed());
    }
}

/// Does it with all of them, some at a time.
fn in_parallel<T: Send>(items: Vec<T>, work: impl Fn(T) + Sync) {
    let workers = items.len().min(WORKERS);
    let queue = Mutex::new(items.into_iter());
    let next = || lock(&queue).next();
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(item) = next() {
                    work(item);
                }
            });
        }
    });
}

fn facts(own: &own::Programs, types: &KernelTypes, modules: BTreeSet<String>) -> Facts {
    let typed = CATALOGUE.iter().flat_map(|function| function.symbols);
    Facts {
        forms: CATALOGUE
            .iter()
            .map(|line| (line.program, Forms::of(line.program, |name| own.get(name).is_some())))
            .collect(),
        typed: typed.filter_map(|name| Some((*name, types.function(name)?.module))).collect(),
        modules,
        refused: HashMap::new(),
        tells_returns: types.enumerates("bpf_func_id", "BPF_FUNC_get_func_ret"),
    }
}

fn loaded_modules() -> BTreeSet<String> {
    // Kernels that can load none have no such file.
    let text = fs::read_to_string("/proc/modules").unwrap_or_default();
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// A loaded program; several functions may share it.
type Program = Arc<OwnedFd>;
/// A slot for a program: whoever comes first loads it.
type Slot = Arc<OnceLock<Result<Program, String>>>;

/// What all watches share.
struct Kernel {
    own: Arc<own::Programs>,
    /// What BTF says of the functions.
    functions: HashMap<&'static str, TypedFunction>,
    /// BTF objects of the modules that have them.
    objects: HashMap<String, OwnedFd>,
    kprobes: Option<KprobeSource>,
    /// Programs that do not depend on the function, by name and whether they are for fprobe.
    shared: Mutex<HashMap<(String, bool), Slot>>,
    /// Mechanisms that turned out not to work at all.
    refused: Mutex<HashMap<Mechanism, String>>,
}

impl Kernel {
    /// Finds out which mechanisms work as far as can be told without attaching.
    fn try_mechanisms(
        own: Arc<own::Programs>,
        types: &KernelTypes,
        facts: &mut Facts,
        allowed: Mechanisms,
    ) -> Self {
        let mut kernel = Self {
            own,
            functions: HashMap::new(),
            objects: HashMap::new(),
            kprobes: None,
            shared: Mutex::default(),
            refused: Mutex::default(),
        };
        kernel.learn(types);
        let mut refuse = |mechanism: Mechanism, why: &io::Error| {
            facts.refused.insert(mechanism, refusal(mechanism, why));
        };
        if allowed.allow(Mechanism::Fentry)
            && let Some(function) = kernel.functions.values().find(|f| f.module.is_none())
            && let Err(e) = sys::try_load(Kind::Fentry(Target { id: function.id, object: None }))
        {
            refuse(Mechanism::Fentry, &e);
        }
        match KprobeSource::find() {
            Ok(source) => kernel.kprobes = Some(source),
            // There is no such file.
            Err(_) => refuse(Mechanism::Kprobe, &io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
        }
        if !types.enumerates("bpf_attach_type", "BPF_TRACE_KPROBE_MULTI") {
            refuse(Mechanism::KprobeMulti, &io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        } else if allowed.allow(Mechanism::KprobeMulti) {
            // Whether fprobes are built in, only a link tells: to no function, it costs nothing.
            let link = sys::try_load(Kind::KprobeMulti)
                .and_then(|program| sys::attach_kprobe_multi(program.as_fd(), &[]));
            match link {
                Err(e) if e.kind() != io::ErrorKind::InvalidInput => {
                    refuse(Mechanism::KprobeMulti, &e);
                }
                _ => {}
            }
        }
        *lock(&kernel.refused) = facts.refused.clone();
        kernel
    }

    /// Takes over what is known of the functions now.
    fn learn(&mut self, types: &KernelTypes) {
        let symbols = CATALOGUE.iter().flat_map(|function| function.symbols);
        self.functions =
            symbols.filter_map(|symbol| Some((*symbol, types.function(symbol)?))).collect();
        if types.modules().next().is_none() {
            return;
        }
        let wanted = |name: &str| types.modules().any(|module| module == name);
        match sys::module_types(wanted) {
            Ok(objects) => self.objects = objects,
            Err(e) => log::info!("functions of modules have no trampolines: {e}"),
        }
    }

    /// The mechanism turned out to work with no function.
    fn refuse(&self, mechanism: Mechanism, why: String) {
        lock(&self.refused).entry(mechanism).or_insert(why);
    }

    fn refused(&self, mechanism: Mechanism) -> Option<String> {
        lock(&self.refused).get(&mechanism).cloned()
    }

    /// Loads what an attempt needs: its programs, and for each whether it is for the return.
    fn load(&self, function: &Function, attempt: Attempt) -> Result<Vec<(Program, bool)>, String> {
        if let Some(why) = self.refused(attempt.mechanism) {
            return Err(why);
        }
        let forms = match attempt.mechanism {
            Mechanism::Fentry => [("__fentry", false), ("__fexit", true)],
            _ => [("__kprobe", false), ("__kretprobe", true)],
        };
        let mut programs = Vec::new();
        for (form, returning) in forms {
            let name = format!("{}{form}", function.program);
            if self.own.get(&name).is_none() {
                continue;
            }
            let program = match attempt.mechanism {
                Mechanism::Fentry => self.load_tracing(&name, attempt.symbol, returning)?,
                mechanism => self.load_shared(&name, mechanism == Mechanism::KprobeMulti)?,
            };
            programs.push((program, returning));
        }
        Ok(programs)
    }

    fn load_tracing(&self, name: &str, symbol: &str, returning: bool) -> Result<Program, String> {
        let function = self.functions.get(symbol).ok_or("its BTF does not list it")?;
        let object = match &function.module {
            None => None,
            Some(module) => {
                let object = self.objects.get(module);
                Some(object.ok_or_else(|| format!("module {module} has no BTF"))?.as_fd())
            }
        };
        let target = Target { id: function.id, object };
        let kind = if returning { Kind::Fexit(target) } else { Kind::Fentry(target) };
        self.load_program(name, kind)
    }

    fn load_shared(&self, name: &str, multi: bool) -> Result<Program, String> {
        let slot = lock(&self.shared).entry((name.to_owned(), multi)).or_default().clone();
        let kind = if multi { Kind::KprobeMulti } else { Kind::Kprobe };
        slot.get_or_init(|| self.load_program(name, kind)).clone()
    }

    fn load_program(&self, name: &str, kind: Kind<'_>) -> Result<Program, String> {
        self.own.load(name, kind).map(Arc::new).map_err(|why| one_line(&why))
    }

    fn attach(&self, attempt: Attempt, program: &Program, returning: bool) -> io::Result<OwnedFd> {
        match (attempt.mechanism, self.kprobes) {
            (Mechanism::Fentry, _) => sys::attach_tracing(program.as_fd()),
            (Mechanism::KprobeMulti, _) => {
                sys::attach_kprobe_multi(program.as_fd(), &[attempt.symbol])
            }
            (_, Some(kprobes)) => kprobes.attach(program.as_fd(), attempt.symbol, returning),
            (_, None) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// Whether an error on attaching is not about the function.
fn is_of_the_mechanism(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EPERM | libc::ENOSYS | sys::ENOTSUPP)
    )
}

/// What an error says of a mechanism as a whole.
fn refusal(mechanism: Mechanism, error: &io::Error) -> String {
    let name = mechanism.name();
    match error.raw_os_error() {
        Some(libc::EPERM) => format!("{name} is not permitted (lockdown?)"),
        Some(libc::EINVAL | libc::EOPNOTSUPP | sys::ENOTSUPP) => {
            format!("this kernel has no {name}")
        }
        _ => format!("the kernel refused {name}: {error}"),
    }
}

/// What an error says of one function.
fn no_attach(attempt: Attempt, error: &io::Error) -> String {
    let Attempt { symbol, mechanism } = attempt;
    let name = mechanism.name();
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ESRCH) => {
            format!(
                "{name}: this kernel has no function {symbol}: it is inlined, or of another name"
            )
        }
        Some(libc::EADDRNOTAVAIL) => format!("{name}: several functions are named {symbol}"),
        Some(libc::EINVAL) => format!("{name}: the kernel lets nobody probe {symbol}"),
        _ => format!("{name}: cannot attach to {symbol}: {error}"),
    }
}

/// One function.
struct Watch {
    function: &'static Function,
    /// What is still to be tried, the next one last.
    attempts: Vec<Attempt>,
    /// What was loaded, and its programs.
    loaded: Option<(Attempt, Vec<(Program, bool)>)>,
    /// What holds the programs at the function.
    links: Vec<OwnedFd>,
    /// Why what was tried did not work.
    why: Vec<String>,
    /// The module that it waits for.
    waits_for: Option<&'static str>,
}

impl Watch {
    fn new(planned: Planned) -> Self {
        let Planned { function, attempts, refused } = planned;
        let mut watch = Self {
            function,
            attempts: Vec::new(),
            loaded: None,
            links: Vec::new(),
            why: refused,
            waits_for: None,
        };
        match attempts {
            Ok(attempts) => watch.attempts = attempts.into_iter().rev().collect(),
            Err(missing) => {
                // What would not be tried anyhow is of no interest as long as there is no module.
                watch.why = vec![missing.to_string()];
                if let Missing::Module(module) = missing {
                    watch.waits_for = Some(module);
                }
            }
        }
        watch
    }

    fn how(&self) -> Result<Attempt, String> {
        match &self.loaded {
            Some((attempt, _)) => Ok(*attempt),
            None => {
                let mut why = self.why.clone();
                why.dedup();
                Err(why.join(", "))
            }
        }
    }

    fn is_loaded(&self) -> bool {
        self.loaded.is_some() && self.links.is_empty()
    }

    fn waits_for(&self, modules: &BTreeSet<String>) -> bool {
        self.waits_for.is_some_and(|module| modules.contains(module))
    }

    /// Loads the programs of the first attempt for which the kernel takes them.
    fn load(&mut self, kernel: &Kernel) {
        while self.loaded.is_none()
            && let Some(attempt) = self.attempts.pop()
        {
            match kernel.load(self.function, attempt) {
                Ok(programs) => self.loaded = Some((attempt, programs)),
                Err(why) => self.why.push(why),
            }
        }
    }

    /// Attaches what was loaded; where the kernel refuses, what can be loaded next.
    fn attach(&mut self, kernel: &Kernel) {
        while let Some((attempt, programs)) = &self.loaded {
            let attach = |(program, returning): &(Program, bool)| {
                kernel.attach(*attempt, program, *returning)
            };
            match programs.iter().map(attach).collect::<io::Result<Vec<_>>>() {
                Ok(links) => {
                    self.links = links;
                    return;
                }
                Err(error) => {
                    let why = if is_of_the_mechanism(&error) {
                        let why = refusal(attempt.mechanism, &error);
                        kernel.refuse(attempt.mechanism, why.clone());
                        why
                    } else {
                        no_attach(*attempt, &error)
                    };
                    self.why.push(why);
                    self.loaded = None;
                    self.load(kernel);
                }
            }
        }
    }

    fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let programs = self.loaded.iter().flat_map(|(_, programs)| programs);
        programs.map(|(program, _)| program.as_fd())
    }
}
