# redis-rb against HOST PORT TARGET: every reply is compared with what a model in this process says.
#
# TARGET is `redis` (a plain server), or `slots` (a proxy that spreads keys over slots and refuses to join them).

require "redis"
require "securerandom"

HOST, PORT, TARGET = ARGV[0], ARGV[1].to_i, ARGV[2]
BIG = 50 << 20

def short(value)
  text = value.inspect
  text.size < 300 ? text : "#{text[0, 300]}... (#{text.size} characters)"
end

def same(got, wanted, what)
  abort "#{what}: got #{short(got)}, wanted #{short(wanted)}" unless got == wanted
end

def refused(code)
  yield
  abort "no error where #{code} was due"
rescue Redis::CommandError => e
  abort "the error is #{e.message}, wanted #{code}" unless e.message.start_with?(code)
end

# A hundred commands and their replies; strings, counters, lists, several keys at once, errors.
def steps(model, random)
  Array.new(100) do
    key = "rb:#{random.rand(500)}"
    list, value = "rb:l:#{random.rand(50)}", random.bytes([0, 1, 10, 100, 3000].sample(random: random))
    case random.rand(8)
    when 0, 1 then model[key] = value and [[:set, key, value], "OK"]
    when 2 then [[:get, key], model[key]]
    when 3 then (model[key] = (model[key] || "".b) + value) and [[:append, key, value], model[key].bytesize]
    when 4 then (model[list] = (model[list] || []) + [value]) and [[:rpush, list, value], model[list].size]
    when 5 then [[:lrange, list, -3, -1], (model[list] || []).last(3)]
    when 6 then keys = Array.new(9) { "rb:#{random.rand(500)}" } and [[:mget, *keys], keys.map { |k| model[k] }]
    else [[:del, key, "rb:none"], model.delete(key) ? 1 : 0]
    end
  end
end

def mixed(redis)
  model, random = {}, Random.new(1)
  pairs = Array.new(120) { steps(model, random) }.flatten(1)
  replies = redis.pipelined { |pipe| pairs.each { |command, _| pipe.call(command) } }
  same(replies.size, pairs.size, "replies of a pipeline")
  pairs.zip(replies).each_with_index do |((command, wanted), got), number|
    got = got.map { |x| x&.b } if got.is_a?(Array)
    got = got.b if got.is_a?(String) && got != "OK"
    same(got, wanted, "reply #{number} of the pipeline, #{short(command)}")
  end
  same(redis.dbsize, model.size, "DBSIZE after the pipeline")
end

def binary(redis)
  lengths = [0, 1, 511, 512, 513, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 1 << 20]
  [(0..255).map(&:chr).join.b, *lengths.map { |length| SecureRandom.bytes(length) }].each do |value|
    key = value[0, 1000]
    same(redis.set(key, value), "OK", "SET of #{value.bytesize} bytes")
    same(redis.get(key).b, value, "GET of #{value.bytesize} bytes")
  end
end

def big(redis)
  value = SecureRandom.bytes(1 << 20) * 50
  same(redis.set("big", value), "OK", "SET of 50 MB")
  same(redis.strlen("big"), BIG, "STRLEN of 50 MB")
  same(redis.get("big").b == value, true, "GET of 50 MB gives what was set")
  same(redis.getrange("big", 17, 10_000_016).b == value[17, 10_000_000], true, "GETRANGE of 10 MB")
  same(redis.del("big"), 1, "DEL")
end

def errors(redis)
  born = redis.call([:client, :id])
  redis.set("text", "x")
  refused("ERR") { redis.call(%w[NOSUCHCOMMAND a]) }
  refused("WRONGTYPE") { redis.lpush("text", 1) }
  refused("CROSSSLOT") { redis.sunion(Array.new(50) { |n| "far:#{n}" }) } if TARGET == "slots"
  same(redis.get("text"), "x", "GET after errors")
  same(redis.call([:client, :id]), born, "the connection after errors")
end

def death(redis)
  redis.set("alive", "yes")
  redis.close
  same(redis.get("alive"), "yes", "GET on a new connection")
end

redis = Redis.new(host: HOST, port: PORT, timeout: 60, id: "conformance")
same(redis.ping, "PONG", "PING")
same(redis.call(%i[client getname]), "conformance", "the name given while connecting")
same(redis.flushall, "OK", "FLUSHALL")
%i[mixed binary big errors death].each do |part|
  send(part, redis)
  puts "#{part}: ok"
end
redis.flushall
puts "redis-rb #{Redis::VERSION}: all ok"
