package draft

import (
	"path"
	"slices"
	"strings"
)

// Grade is how much a rule deserves a thought.
type Grade string

// The grades. A note is granted and explained; what is risky is withheld unless somebody asks for it (Risky).
const (
	GradeNone  Grade = ""
	GradeNote  Grade = "note"
	GradeRisky Grade = "risky"
)

// Reasons.
const (
	whySecret      = "holds keys or credentials"
	whyStartup     = "is run or trusted by other programs"
	whyShell       = "a shell: it runs whatever it is told"
	whyInterpreter = "an interpreter: it runs whatever it is given to read"
	whyPackages    = "a package manager: it brings in code and runs it"
	whyPrivilege   = "gains rights elsewhere; inside an agent it gains none"
	whyControl     = "the service behind it acts with other rights than the agent's"
	whyAgent       = "signs and decrypts with keys of the user"
	whyProcesses   = "of other processes"
	whyDevice      = "a device"
	whyKernel      = "the kernel's own memory or settings, for the whole machine"
	whyWritten     = "it is written too: the agent executes what it makes"
	whyMetadata    = "a cloud's metadata service, which hands out credentials"
)

// secretFolders hold secrets alone, but for what secretExcept names.
var secretFolders = []string{
	"~/.ssh", "~/.aws", "~/.gnupg", "~/.kube", "~/.azure", "~/.config/gcloud", "~/.config/gh", "~/.password-store", "~/.local/share/keyrings",
	"~/.mozilla", "~/.config/google-chrome", "~/.config/chromium", "~/.thunderbird", "/run/secrets", "/var/run/secrets", "/etc/ssl/private", "/etc/letsencrypt",
	"/etc/raypher", "/root/.ssh", "/etc/wireguard", "/etc/sudoers.d",
}

// secretExcept are files there that every program may know.
var secretExcept = []string{"known_hosts", "config", "known_hosts.old"}

// secretNames are files that hold secrets wherever they lie.
var secretNames = []string{
	"id_rsa", "id_ed25519", "id_ecdsa", "id_dsa", ".netrc", ".git-credentials", ".npmrc", ".pypirc", ".pgpass", ".my.cnf", ".vault-token",
	".dockerconfigjson", "credentials", "credentials.json", ".credentials.json", "auth.json", ".env", "service-account.json", "kubeconfig", ".bash_history",
	".zsh_history", ".python_history", "shadow", "shadow-", "gshadow", "gshadow-", "sudoers", "secrets.yaml", "secrets.yml", "secrets.json",
	"secring.gpg", "master.key", "token", ".htpasswd",
}

// secretEndings end names of keys.
var secretEndings = []string{".pem", ".key", ".p12", ".pfx", ".kdbx", ".jks", ".keystore", "_key", ".ovpn", ".gpg", ".asc"}

// startupPaths are what others run or trust, when it is written.
var startupPaths = []string{
	"~/.bashrc", "~/.bash_profile", "~/.bash_login", "~/.profile", "~/.zshrc", "~/.zprofile", "~/.zshenv", "~/.gitconfig", "~/.config/git/config", "~/.vimrc",
	"~/.ssh/authorized_keys", "~/.ssh/config", "~/.local/bin", "~/bin", "~/.config/autostart", "~/.config/systemd", "~/.config/fish", "~/.cargo/bin",
	"/etc", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/boot", "/opt", "/var/spool/cron",
}

var shells = []string{"sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "fish", "csh", "tcsh", "busybox", "rbash"}

// interpreters are known by the beginning of their names, with a version behind it.
var interpreters = []string{
	"python", "pypy", "perl", "ruby", "node", "nodejs", "bun", "deno", "php", "lua", "luajit", "tclsh", "awk", "gawk", "mawk", "java", "Rscript", "guile",
	"env", "xargs", "find", "ed", "make", "gdb", "ssh", "socat", "nc", "ncat",
}

var packageManagers = []string{
	"apt", "apt-get", "aptitude", "dpkg", "dnf", "yum", "rpm", "zypper", "pacman", "apk", "snap", "flatpak", "brew", "nix", "nix-env", "pip", "pip3",
	"pipx", "uv", "uvx", "conda", "mamba", "poetry", "npm", "npx", "yarn", "pnpm", "pnpx", "gem", "bundle", "cargo", "go", "composer", "cpan", "luarocks",
}

var privileged = []string{"sudo", "su", "doas", "pkexec", "mount", "umount", "newgrp", "chsh", "passwd", "docker", "podman", "nsenter", "unshare", "systemctl"}

// harmlessDevices do nothing to anybody.
var harmlessDevices = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev"}

// risk says what to think of a list's path, in which ~ is the home folder.
func risk(list, p string) (Grade, string) {
	switch list {
	case ListExec:
		return programRisk(p)
	case ListWrite:
		if isStartup(p) {
			return GradeRisky, whyStartup
		}
	}
	if isSecret(p) {
		return GradeRisky, whySecret
	}
	switch {
	case strings.HasPrefix(p, "/dev/") && !slices.Contains(harmlessDevices, p) && !strings.HasPrefix(p, "/dev/shm/") && !strings.HasPrefix(p, "/dev/pts/"):
		return GradeRisky, whyDevice
	case p == "/proc/kcore" || list == ListWrite && (strings.HasPrefix(p, "/proc/sys/") || p == "/proc/sysrq-trigger" || strings.HasPrefix(p, "/sys/")):
		return GradeRisky, whyKernel
	case strings.HasPrefix(p, "/proc/"):
		return processRisk(p)
	}
	return GradeNone, ""
}

// processRisk is about files of other processes that show more than what runs.
func processRisk(p string) (Grade, string) {
	names := strings.Split(strings.TrimPrefix(p, "/proc/"), "/")
	if strings.Trim(names[0], "0123456789") != "" || len(names) < 2 {
		return GradeNone, ""
	}
	own := names[1:]
	if len(own) > 2 && own[0] == "task" {
		own = own[2:]
	}
	if slices.Contains([]string{"environ", "mem", "maps", "smaps", "auxv", "fd", "root", "cwd", "map_files", "stack"}, own[0]) {
		return GradeRisky, "environment, memory or files " + whyProcesses
	}
	return GradeNote, whyProcesses
}

func isSecret(p string) bool {
	name := path.Base(p)
	for _, folder := range secretFolders {
		if lies(path.Dir(p), folder) {
			return !slices.Contains(secretExcept, name) && !strings.HasSuffix(name, ".pub")
		}
	}
	if _, library := libraryTree(p); library || inPackages(p) {
		return false // certificates, test data
	}
	if strings.HasSuffix(p, "/.docker/config.json") || strings.HasPrefix(name, ".env.") && name != ".env.example" || slices.Contains(secretNames, name) {
		return true
	}
	return slices.ContainsFunc(secretEndings, func(end string) bool { return strings.HasSuffix(name, end) })
}

// inPackages reports whether a path lies in what a package manager installed.
func inPackages(p string) bool {
	return slices.ContainsFunc(packageFolders, func(folder string) bool { return strings.Contains(p, "/"+folder+"/") })
}

func isStartup(p string) bool {
	if strings.Contains(p, "/.git/hooks/") && !strings.HasSuffix(p, ".sample") {
		return true
	}
	if p == "/etc/mtab" {
		return false
	}
	return slices.ContainsFunc(startupPaths, func(start string) bool { return lies(p, start) })
}

// lies reports whether a path is a folder or lies in it; what is hidden in ~, in whichever home, since others' are reached and runs of several merged.
func lies(p, folder string) bool {
	if p == folder || strings.HasPrefix(p, folder+"/") {
		return true
	}
	hidden, ok := strings.CutPrefix(folder, "~/.")
	return ok && strings.Contains(p+"/", "/."+hidden+"/")
}

// sensitive reports whether a pattern for all that is in a folder would take in secrets, or what others run.
func sensitive(folder string) bool {
	if name := path.Base(folder); name == ".git" || strings.HasSuffix(folder, "/.git/hooks") {
		return true // its hooks
	}
	return slices.ContainsFunc(secretFolders, func(secret string) bool { return lies(folder, secret) || onTheWay(folder, secret) != "" }) ||
		slices.ContainsFunc(startupPaths, func(start string) bool { return onTheWay(folder, start) != "" })
}

// sensitiveEntry reports whether the pattern of a made-up name in a folder would match what leads to secrets, or to what others run.
func sensitiveEntry(folder, name, pattern string) bool {
	if pattern == "*" {
		pattern = strings.Repeat("?", len([]rune(name)))
		if !wide(folder) && !shortName(name) {
			pattern = "*"
		}
	}
	matches := func(entry string) bool {
		ok, err := path.Match(pattern, entry)
		return entry != "" && (ok || err != nil)
	}
	if folder == "/home" || path.Base(folder) == ".git" && matches("hooks") || strings.HasSuffix(folder, "/.git/hooks") && !strings.HasSuffix(pattern, ".sample") {
		return true
	}
	for _, list := range [][]string{secretFolders, startupPaths, wideFolders, {"~/.docker/config.json"}} {
		if slices.ContainsFunc(list, func(below string) bool { return matches(onTheWay(folder, below)) }) {
			return true
		}
	}
	return slices.ContainsFunc(secretFolders, func(secret string) bool { return lies(folder, secret) })
}

// onTheWay is the entry of a folder through which a path below it leads; empty: it does not lie below it.
func onTheWay(folder, below string) string {
	home, inHome := strings.CutPrefix(below, "~/")
	rest, ok := strings.CutPrefix(below, strings.TrimSuffix(folder, "/")+"/")
	if !ok && inHome && (folder == "/root" || path.Dir(folder) == "/home") {
		rest, ok = home, true
	}
	if first, _, deeper := strings.Cut(home, "/"); !ok && inHome && deeper && strings.HasPrefix(home, ".") {
		// .cargo of somebody's home
		if at := strings.LastIndex(folder, "/"+first); at >= 0 {
			rest, ok = strings.CutPrefix(home, folder[at+1:]+"/")
		}
	}
	if !ok {
		return ""
	}
	first, _, _ := strings.Cut(rest, "/")
	return first
}

func programRisk(p string) (Grade, string) {
	name := path.Base(p)
	plain := strings.TrimRight(name, "0123456789.")
	switch {
	case slices.Contains(shells, name):
		return GradeNote, whyShell
	case slices.Contains(packageManagers, name) || slices.Contains(packageManagers, plain):
		return GradeNote, whyPackages
	case slices.Contains(interpreters, name) || slices.Contains(interpreters, strings.TrimSuffix(plain, "-")):
		return GradeNote, whyInterpreter
	case slices.Contains(privileged, name):
		return GradeNote, whyPrivilege
	}
	return GradeNone, ""
}

// controlSockets are services that act for whoever asks.
var controlSockets = []string{"docker.sock", "containerd.sock", "podman.sock", "crio.sock", "libvirt-sock", "system_bus_socket", "private", "snapd.socket", "lxd.socket"}

// unixRule is the rule for a socket.
func unixRule(pattern, p string) Rule {
	r := Rule{List: ListUnix, Pattern: pattern, Example: p}
	name := path.Base(p)
	switch {
	case slices.Contains(controlSockets, name) || strings.HasPrefix(p, "/run/systemd/") || strings.HasPrefix(p, "/run/user/") && name == "bus":
		r.Grade, r.Why = GradeRisky, whyControl
	case strings.Contains(p, "ssh-") && strings.HasPrefix(name, "agent") || strings.Contains(name, "gpg-agent") || strings.Contains(p, "/keyring/"):
		r.Grade, r.Why = GradeRisky, whyAgent
	}
	return r
}

// foldRisk is about patterns that stand for more than was done.
func foldRisk(pattern string) (Grade, string) {
	folder, last := path.Split(pattern)
	folder = strings.TrimSuffix(folder, "/")
	switch {
	case pattern == "/proc/self/**":
		return GradeNone, ""
	case strings.HasPrefix(pattern, "/proc/*/"):
		return GradeNote, whyProcesses
	case last != "" && strings.Trim(last, "?*") == "" && wide(folder):
		return GradeNote, "wide: everything of such a name in " + folder
	}
	return GradeNone, ""
}
