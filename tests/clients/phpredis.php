<?php
// phpredis against HOST PORT TARGET: every reply is compared with what a model in this process says.
//
// TARGET is `redis` (a plain server), or `slots` (a proxy that spreads keys over slots and refuses to join them).

ini_set("memory_limit", "1G");
[, $host, $port, $target] = $argv;

function short($value): string {
    $text = var_export($value, true);
    return strlen($text) < 300 ? $text : substr($text, 0, 300) . "... (" . strlen($text) . " characters)";
}

function same($got, $wanted, string $what): void {
    if ($got !== $wanted) {
        fwrite(STDERR, "$what: got " . short($got) . ", wanted " . short($wanted) . "\n");
        exit(1);
    }
}

/** The command must answer an error that starts with $code. */
function refused(Redis $redis, string $code, ...$command): void {
    $redis->clearLastError();
    try {
        $redis->rawCommand(...$command);
        $error = (string) $redis->getLastError();
    } catch (RedisException $thrown) { // for codes that it does not know
        $error = $thrown->getMessage();
    }
    $redis->clearLastError();
    same(str_starts_with($error, $code), true, implode(" ", $command) . ": the error '$error' starts with $code");
}

function mixed(Redis $redis): void {
    mt_srand(1);
    $model = $wanted = [];
    $key = fn() => "php:" . mt_rand(0, 500);
    $value = fn() => random_bytes([1, 10, 100, 3000][mt_rand(0, 3)]);
    $pipe = $redis->pipeline();
    for ($number = 0; $number < 12000; $number++) {
        switch (mt_rand(0, 4)) {
            case 0:
                $pipe->set($k = $key(), $model[$k] = $value());
                $wanted[] = true;
                break;
            case 1:
                $pipe->get($k = $key());
                $wanted[] = $model[$k] ?? false;
                break;
            case 2:
                $pipe->append($k = $key(), $v = $value());
                $model[$k] = ($model[$k] ?? "") . $v;
                $wanted[] = strlen($model[$k]);
                break;
            case 3:
                $pipe->mget($keys = array_map($key, range(1, 9)));
                $wanted[] = array_map(fn($k) => $model[$k] ?? false, $keys);
                break;
            default:
                $pipe->del($k = $key(), "php:none");
                $wanted[] = isset($model[$k]) ? 1 : 0;
                unset($model[$k]);
        }
    }
    foreach ($pipe->exec() as $number => $got) {
        same($got, $wanted[$number], "reply $number of the pipeline");
    }
    same($redis->dbSize(), count($model), "DBSIZE after the pipeline");
}

function binary(Redis $redis): void {
    $values = [implode("", array_map("chr", range(0, 255)))];
    foreach ([1, 511, 512, 513, 16383, 16384, 16385, 65535, 65536, 65537, 1 << 20] as $length) {
        $values[] = random_bytes($length);
    }
    foreach ($values as $value) {
        $key = substr($value, 0, 1000);
        same($redis->set($key, $value), true, "SET of " . strlen($value) . " bytes");
        same($redis->get($key), $value, "GET of " . strlen($value) . " bytes");
    }
}

function big(Redis $redis): void {
    $value = str_repeat(random_bytes(1 << 20), 50);
    same($redis->set("big", $value), true, "SET of 50 MB");
    same($redis->strlen("big"), strlen($value), "STRLEN of 50 MB");
    same($redis->get("big") === $value, true, "GET of 50 MB gives what was set");
    same($redis->getRange("big", 17, 10000016) === substr($value, 17, 10000000), true, "GETRANGE of 10 MB");
    same($redis->del("big"), 1, "DEL");
}

function errors(Redis $redis): void {
    global $target;
    $born = $redis->rawCommand("CLIENT", "ID");
    $redis->set("text", "x");
    refused($redis, "ERR", "NOSUCHCOMMAND", "a");
    refused($redis, "WRONGTYPE", "LPUSH", "text", "1");
    if ($target === "slots") {
        refused($redis, "CROSSSLOT", "SUNION", ...array_map(fn($n) => "far:$n", range(1, 50)));
    }
    same($redis->get("text"), "x", "GET after errors");
    same($redis->rawCommand("CLIENT", "ID"), $born, "the connection after errors");
}

function death(Redis $redis): void {
    global $host, $port;
    $redis->set("alive", "yes");
    $redis->close();
    $redis->connect($host, (int) $port, 60);
    same($redis->get("alive"), "yes", "GET on a new connection");
}

$redis = new Redis();
$redis->connect($host, (int) $port, 60);
same($redis->ping(), true, "PING");
same($redis->flushAll(), true, "FLUSHALL");
foreach (["mixed", "binary", "big", "errors", "death"] as $part) {
    $part($redis);
    echo "$part: ok\n";
}
$redis->flushAll();
echo "phpredis " . phpversion("redis") . ": all ok\n";
