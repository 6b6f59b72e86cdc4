# Tiny guests: one claim each about the machine (tests/guests).
# shellcheck shell=bash

guest() {
	sandbox --memory 64 --kernel "$tree/build/guests/$1.elf" --console -- true
}

holds() {
	guest "$1"
	expect 125
	expect_in err "all claims hold"
	expect_in err "the guest reset itself"
}

test_guest_entry() { holds entry; }
test_guest_cpuid() { holds cpuid; }
test_guest_ports() { holds ports; }
test_guest_mmio() { holds mmio; }
test_guest_memory() { holds memory; }

test_guest_reset() {
	guest reset
	expect_error 125 "the guest reset itself before the command ended"
}

test_guest_triple_fault() {
	guest triple_fault
	expect_error 125 "triple fault"
}

test_guest_halt() {
	guest halt
	expect 125
	expect_in err "the guest halted"
}

# The kernel's log is shown after a panic, without what could confuse a terminal.
test_guest_panic() {
	sandbox --kernel "$tree/build/guests/panic.elf" -- true
	expect 125
	expect_in err "the guest kernel panicked: tiny guest"
	expect_in err "a line before"
	expect_in err "[31mred"
	! grep -q "$(printf '[\033\007]')" err
}

test_guest_jump_to_mmio() {
	guest jump_to_mmio
	expect_error 125 "KVM"
}

test_case_18_console_flood() {
	sandbox --kernel "$tree/build/guests/console_flood.elf" -- true
	expect 125
	expect_in err "flood over"
	[ "$(stat -c %s err)" -lt 300000 ]
}

test_guest_spin() {
	cap run --memory 64 --timeout 1 --kernel "$tree/build/guests/spin.elf" -- true
	expect_error 124 "took longer than 1 s"
}
