# Sourced at the end of the suite's tests/support/redis.tcl (`fetch` sees to it). Where CONFORMANCE_RESP3 is set, every
# connection that a test makes says HELLO 3 before the test sees it: this version of the suite cannot by itself.

if {[info exists ::env(CONFORMANCE_RESP3)]} {
    rename redis redis_in_resp2
    proc redis {args} {
        set handle [redis_in_resp2 {*}$args]
        lassign $args host port deferred tls options raw
        # Who reads line by line wants to see what it is given.
        if {$raw ne "1"} {
            $handle hello 3
            if {$deferred eq "1"} {
                $handle read
            }
        }
        return $handle
    }
}
