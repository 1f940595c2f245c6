#!/bin/sh
# Adit's warden: it ends what an exec has started, and says what is left of it. One runs on each tunnel, as
#
#     sh -c SCRIPT adit-warden NONCE MARK
#
#     in:   end EXEC_ID SESSION           SESSION is the process id that the exec's shell had, 0 where it is not known
#     out:  ready NONCE                   once, at the start
#           ended EXEC_ID SIGNALS LEFT    SIGNALS: - or TERM or TERM,KILL; LEFT: how many processes live on
#
# It knows processes by what they inherit, whatever became of their parents: ADIT_EXEC_ID in their environment, and the
# session that sshd begins for each exec, which also shows those of another user and those that dropped their environment.
# When its input ends the tunnel is gone, and it ends everything that has ADIT_TUNNEL=MARK. It needs no program but grep
# and sleep, and while nothing is asked of it, it waits in a read.

nonce=$1
mark=$2
exec 2>/dev/null
# Nobody may be left to read what it says, and it has to outlive its tunnel for a while.
trap '' HUP PIPE

# Sets `now`, in hundredths of a second.
read_clock() {
    read -r now _ </proc/uptime
    now=${now%.*}${now#*.}
}

# One look at all processes: `found` are those that carry $carried or are of $session, `fresh` those of them that no look
# has found before, `left` is how many they are. Without grep it has seen nothing, and `blind` says so.
look() {
    looks=$((looks + 1)) found='' fresh='' left=0
    marked=$(grep -lsz "^$carried" /proc/[0-9]*/environ)
    [ "$?" -le 2 ] || blind=yes
    related=''
    if [ "$session" -ne 0 ]; then
        # What is behind a program's name, which may hold anything: state (Z and X have ended), parent, group, session.
        related=$(grep -ls ") [^XZ] [-0-9]* [-0-9]* $session [-0-9 ]*\$" /proc/[0-9]*/stat)
        [ "$?" -le 2 ] || blind=yes
    fi
    for file in $marked $related; do
        process=${file#/proc/}
        process=${process%/*}
        earlier=0
        eval "earlier=\${look_$process-0} look_$process=$looks"
        if [ "$earlier" -ne "$looks" ]; then
            found="$found $process"
            left=$((left + 1))
        fi
        if [ "$earlier" -eq 0 ]; then
            fresh="$fresh $process"
        fi
    done
    if [ "$session" -ne 0 ] && [ "$left" -eq 0 ] && ! kill -0 "-$session"; then
        # It has ended, and its number may be given to others.
        session=0
    fi
}

# Ends what carries $1 or is of session $2: TERM, and KILL to what is still there 2 s later. It is over when nothing was
# found for $3 hundredths of a second and in three looks, or when $4 are past. One look may miss a process that forks and
# ends while it lasts. Process ids are given out in a circle, so none comes again between a look and the signals after it.
end_all() {
    carried=$1 session=$2 looks=0 empty=0 blind=no termed='' killed=''
    read_clock
    kill_from=$((now + 200)) quiet_until=$((now + $3)) give_up_from=$((now + $4))
    while :; do
        look
        read_clock
        empty=$((empty + 1))
        if [ "$left" -ne 0 ]; then
            empty=0 quiet_until=$((now + $3))
        elif [ "$empty" -ge 3 ] && [ "$now" -ge "$quiet_until" ]; then
            # For what no look shows: a signal to a group misses nothing.
            [ "$session" -eq 0 ] || kill -KILL "-$session"
            break
        fi
        if [ "$now" -ge "$give_up_from" ]; then
            break
        fi
        # The lists are meant to fall into words.
        # shellcheck disable=SC2086
        if [ "$left" -ne 0 ] && [ "$now" -ge "$kill_from" ]; then
            killed=KILL
            kill -KILL $found
            [ "$session" -eq 0 ] || kill -KILL "-$session"
        elif [ -n "$fresh" ]; then
            # Once to each: programs take a second TERM for impatience. A stopped one hears it when it goes on.
            termed=TERM
            kill -TERM $fresh
            kill -CONT $fresh
        fi
        if [ "$empty" -eq 1 ] || [ "$empty" -eq 2 ]; then
            continue
        elif [ "$looks" -lt 4 ]; then
            sleep 0.05 || sleep 1
        else
            sleep 0.2 || sleep 1
        fi
    done
}

# Answers one `end`.
end_exec() {
    # A number that leads a session of somebody else's by now, not a child of the sshd that we are a child of.
    if grep -qsv ") . $PPID " "/proc/$session/stat"; then
        session=0
    fi
    end_all "ADIT_EXEC_ID=$exec_id" "$session" 5 400
    case $termed$killed in
    TERMKILL) signals=TERM,KILL ;;
    '') signals=- ;;
    *) signals=$termed$killed ;;
    esac
    [ "$blind" = yes ] || printf 'ended %s %s %s\n' "$exec_id" "$signals" "$left"
}

printf 'ready %s\n' "$nonce"
while read -r word exec_id session _; do
    case $word:$exec_id in
    end:*[!-0-9a-f]* | end:) continue ;;
    end:*) ;;
    *) continue ;;
    esac
    case $session in
    '' | *[!0-9]* | "$$") session=0 ;;
    esac
    # All at once, and as nobody's child, so that none has to be waited for.
    (end_exec &)
done

# The shell of an exec that has just begun may still be reading its own files: what it runs then comes late.
end_all "ADIT_TUNNEL=$mark" 0 300 3000
