"""The 93 controls of ISO/IEC 27001:2022, Annex A: number, a title in our own words, and what no
software shows of it.

The last text is why a control is organisational where nothing in Stoa gives evidence for it, and
otherwise what remains beside that evidence (empty: nothing worth saying). The standard's own text
is its publisher's, and is not here.
"""

from typing import NamedTuple

CATALOGUE = "ISO27001:2022"


class Control(NamedTuple):
    id: str
    title: str
    beside: str = ""

    @property
    def ref(self) -> str:
        return f"{CATALOGUE}/{self.id}"


CONTROLS: dict[str, Control] = {
    id: Control(id, title, beside)
    for id, title, beside in (
        # Organizational controls
        ("A.5.1", "Policies for information security", "management writes and approves them"),
        ("A.5.2", "Who is responsible for what", "management assigns it; roles here are technical"),
        (
            "A.5.3",
            "Duties that one person must not combine",
            "whom a role is given is decided by people",
        ),
        ("A.5.4", "What management asks of people", "a matter of contracts and of leading"),
        ("A.5.5", "Contact with authorities", "people keep it"),
        ("A.5.6", "Contact with groups of specialists", "people keep it"),
        ("A.5.7", "Intelligence about threats", "gathered and judged outside of the platform"),
        ("A.5.8", "Security within projects", "a matter of how projects are run"),
        (
            "A.5.9",
            "List of assets and of who owns them",
            "offices, laptops and paper stand elsewhere",
        ),
        ("A.5.10", "How assets may be used", "a rule for people"),
        ("A.5.11", "Assets are given back", "happens when people leave, outside of the platform"),
        ("A.5.12", "Classes of information", "what a document is worth is decided by people"),
        (
            "A.5.13",
            "Labels that show the class",
            "documents outside of the platform are labelled by people",
        ),
        ("A.5.14", "Moving information", "agreements with who receives it are contracts"),
        ("A.5.15", "Rules of access", "the written policy behind the grants"),
        (
            "A.5.16",
            "Identities and their life",
            "that a login belongs to this person is checked by people",
        ),
        ("A.5.17", "Passwords, keys and other proofs of identity", "how people keep theirs"),
        (
            "A.5.18",
            "Rights of access: granted, reviewed, taken away",
            "campaigns of review come with a later version",
        ),
        (
            "A.5.19",
            "Security with suppliers",
            "a register of suppliers comes with a later version; until then contracts",
        ),
        ("A.5.20", "Security in contracts with suppliers", "the contracts themselves"),
        (
            "A.5.21",
            "Security along the chain of suppliers",
            "a register of suppliers comes with a later version",
        ),
        ("A.5.22", "Watching suppliers and their changes", "reviews of suppliers by people"),
        (
            "A.5.23",
            "Using the clouds of others",
            "which providers the operator chose, and how it could leave them",
        ),
        ("A.5.24", "Being prepared for incidents", "plans, roles and drills of people"),
        (
            "A.5.25",
            "Judging what is an incident",
            "people judge; a register comes with a later version",
        ),
        ("A.5.26", "Answering incidents", "people act; a register comes with a later version"),
        (
            "A.5.27",
            "Learning from incidents",
            "people learn; a register comes with a later version",
        ),
        (
            "A.5.28",
            "Collecting evidence",
            "what lies outside of the platform, and who had it in hands",
        ),
        ("A.5.29", "Security while things are disrupted", "plans and drills of people"),
        (
            "A.5.30",
            "Technology that is ready for a disruption",
            "that targets fit what the business needs",
        ),
        (
            "A.5.31",
            "What law and contracts demand",
            "lawyers tell; the platform keeps no list of laws",
        ),
        ("A.5.32", "Rights in intellectual property", "licences are read by people"),
        ("A.5.33", "Protection of records", "records that are not in the platform"),
        ("A.5.34", "Privacy and personal data", "legal grounds and notices are decided by people"),
        ("A.5.35", "Review by somebody independent", "auditors do it"),
        (
            "A.5.36",
            "Whether own rules are kept",
            "managers review it; the platform shows what was recorded",
        ),
        ("A.5.37", "Written procedures", "the operator's runbook, kept by people"),
        # People controls
        ("A.6.1", "Checking who is hired", "done before anybody has a login"),
        ("A.6.2", "Terms of employment", "contracts"),
        ("A.6.3", "Awareness and training", "people train; records lie with whoever trains"),
        ("A.6.4", "What follows a breach of rules", "a matter of employment"),
        ("A.6.5", "Duties after leaving or changing a post", "contracts"),
        ("A.6.6", "Agreements on confidentiality", "contracts"),
        ("A.6.7", "Working from elsewhere", "rules for people and their devices"),
        ("A.6.8", "Telling of what looks wrong", "people tell people"),
        # Physical controls
        ("A.7.1", "Perimeters", "of the data centre"),
        ("A.7.2", "Entry", "of the data centre"),
        ("A.7.3", "Offices and rooms", "of buildings"),
        ("A.7.4", "Watching the premises", "of the data centre"),
        ("A.7.5", "Fire, water and other threats", "of buildings"),
        ("A.7.6", "Working in secure areas", "rules for people on site"),
        ("A.7.7", "Clear desks and screens", "rules for people"),
        ("A.7.8", "Where equipment stands", "of the data centre"),
        ("A.7.9", "Equipment away from the premises", "rules for people"),
        ("A.7.10", "Storage media", "people carry and destroy them"),
        ("A.7.11", "Power, cooling and lines", "of the data centre"),
        ("A.7.12", "Cables", "of the data centre"),
        ("A.7.13", "Maintenance of equipment", "what is done by hand at the machine"),
        (
            "A.7.14",
            "Disposal or re-use of equipment",
            "that the machine itself was taken away or destroyed",
        ),
        # Technological controls
        ("A.8.1", "People's own devices", "laptops and phones are not managed by the platform"),
        (
            "A.8.2",
            "Privileged access",
            "acts on a host by its administrators are in the host's own journal",
        ),
        (
            "A.8.3",
            "Access to information is restricted",
            "access that the operating system grants on hosts",
        ),
        ("A.8.4", "Access to source code", "kept where the code is kept"),
        (
            "A.8.5",
            "Secure authentication",
            "people sign in with a password alone: a second factor is not there yet",
        ),
        ("A.8.6", "Capacity", "buying machines in time"),
        ("A.8.7", "Protection against malware", "of hosts and of people's devices"),
        (
            "A.8.8",
            "Technical vulnerabilities",
            "scans of hosts and images are not made by the platform",
        ),
        ("A.8.9", "Configuration", "the configuration of hosts beneath the agent"),
        ("A.8.10", "Deletion of information", "copies outside of the platform"),
        ("A.8.11", "Masking of data", "what people copy out of the platform"),
        ("A.8.12", "Preventing leaks of data", "people and their devices"),
        ("A.8.13", "Backups", "that a copy lies in another place is for the operator to see to"),
        ("A.8.14", "Redundancy", "lines, power and a second site"),
        ("A.8.15", "Logging", "the journals of hosts"),
        ("A.8.16", "Watching for what is unusual", "somebody who looks at it"),
        ("A.8.17", "Clocks agree", "which source of time the hosts follow"),
        (
            "A.8.18",
            "Tools that pass over controls",
            "a shell on a host, or the database's owner, is recorded by the host alone",
        ),
        ("A.8.19", "Installing software", "packages of hosts beneath the agent"),
        ("A.8.20", "Security of networks", "switches, firewalls and cables"),
        ("A.8.21", "Security of network services", "what carriers promise"),
        ("A.8.22", "Networks are kept apart", "networks beneath the platform's own"),
        ("A.8.23", "Which web sites may be reached", "people's own devices"),
        ("A.8.24", "Cryptography", "keys that hosts and people keep for themselves"),
        (
            "A.8.25",
            "Security in the life of software",
            "how software is made: its repository shows it",
        ),
        ("A.8.26", "Security demanded of applications", "written where software is planned"),
        ("A.8.27", "Principles of secure architecture", "ARCHITECTURE.md and reviews of it"),
        ("A.8.28", "Secure coding", "the repository and its checks show it"),
        ("A.8.29", "Tests of security", "the repository's checks show it"),
        ("A.8.30", "Development by others", "contracts"),
        (
            "A.8.31",
            "Development, test and production are apart",
            "how many installations there are, and who uses which",
        ),
        ("A.8.32", "Changes", "who approves a change before it is made"),
        ("A.8.33", "Data for tests", "the repository's tests make their own"),
        ("A.8.34", "Audits do not disturb", "agreed with the auditor; exports only read"),
    )
}
